"""Windowed k-NN propagation against a loop over cells, windows and frames, and with other tiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lila_train.evaluation.davis.knn import DinoPropagation
from lila_train.model.propagation import Context, Propagation

LILA, DINO = Propagation(window=5), DinoPropagation(window=5)


def unit_frames(seed: int, count: int, depth: int, height: int, width: int) -> torch.Tensor:
    draw = np.random.Generator(np.random.Philox(seed))
    frames = torch.from_numpy(draw.standard_normal((count, depth, height, width))).float()
    return frames / frames.norm(dim=1, keepdim=True)


def soft_labels(seed: int, count: int, classes: int, height: int, width: int) -> torch.Tensor:
    draw = np.random.Generator(np.random.Philox(key=seed, counter=1))
    return torch.from_numpy(draw.dirichlet(np.ones(classes), (count, height, width))).float().movedim(-1, 1)


def context_of(features: torch.Tensor, labels: torch.Tensor, size: int) -> Context:
    context = Context(size, features[0], labels[0])
    for frame, label in zip(features[1:], labels[1:], strict=True):
        context.add(frame, label)
    return context


def by_loops(query, features, labels, rule: Propagation) -> np.ndarray:
    """One cell, one window position, one frame at a time, in float64."""
    _, height, width = query.shape
    radius, out = rule.window // 2, np.zeros((labels.shape[1], height, width))
    query, features, labels = (tensor.double().numpy() for tensor in (query, features, labels))
    for y in range(height):
        for x in range(width):
            votes = []
            for t in range(len(features)):
                for dy in range(-radius, radius + 1):
                    for dx in range(-radius, radius + 1):
                        v, u = y + dy, x + dx
                        if rule.border == "cut" and not (0 <= v < height and 0 <= u < width):
                            continue
                        v, u = min(max(v, 0), height - 1), min(max(u, 0), width - 1)
                        votes.append((float(query[:, y, x] @ features[t, :, v, u]), t, v, u))
            best = sorted(votes, reverse=True)[: rule.topk]
            weights = [math.exp(score / rule.temperature) for score, *_ in best]
            for weight, (_, t, v, u) in zip(weights, best, strict=True):
                out[:, y, x] += weight / sum(weights) * labels[t, :, v, u]
    return out


@pytest.mark.parametrize("rule", [LILA, DINO], ids=["replicate, softmax of top", "cut border, share of top"])
@pytest.mark.parametrize(("height", "width"), [(9, 13), (3, 7), (2, 2)])
def test_equals_a_loop_over_everything(rule, height, width):
    features, labels = unit_frames(1, 4, 6, height, width), soft_labels(2, 3, 3, height, width)
    context = context_of(features[:3], labels, size=8)
    ours = rule.propagate(features[3], context, tile=4)
    np.testing.assert_allclose(ours.numpy(), by_loops(features[3], features[:3], labels, rule), atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 15), st.integers(1, 15), st.integers(1, 20), st.integers(0, 30_000), st.integers(0, 999))
def test_how_a_frame_is_cut_changes_nothing(height, width, tile, memory, seed):
    features, labels = unit_frames(seed, 3, 4, height, width), soft_labels(seed, 2, 2, height, width)
    context = context_of(features[:2], labels, size=2)
    whole = LILA.propagate(features[2], context)
    cut = LILA.propagate(features[2], context, memory, tile)
    torch.testing.assert_close(cut, whole, atol=2e-6, rtol=0)


def test_a_window_as_large_as_the_grid_is_plain_nearest_neighbors():
    features, labels = unit_frames(3, 2, 5, 6, 6), soft_labels(3, 1, 2, 6, 6)
    rule = Propagation(window=13, topk=1, border="cut")
    ours = rule.propagate(features[1], context_of(features[:1], labels, 2))
    nearest = (features[1].flatten(1).T @ features[0].flatten(1)).argmax(dim=1)
    torch.testing.assert_close(ours.flatten(1), labels[0].flatten(1)[:, nearest])


def test_a_moving_pattern_takes_its_labels_along():
    features, labels = unit_frames(4, 1, 16, 12, 12), torch.zeros(1, 2, 12, 12)
    labels[0, 1, 4:7, 4:7] = 1
    labels[0, 0] = 1 - labels[0, 1]
    moved = features[0].roll((1, 2), (1, 2))
    ours = Propagation(window=5, topk=1).propagate(moved, context_of(features, labels, 2), tile=5)
    inner = (slice(None), slice(2, None), slice(2, None))
    torch.testing.assert_close(ours[inner], labels[0].roll((1, 2), (1, 2))[inner])


def test_ties_at_the_last_rank_all_vote_with_dino():
    features, labels = torch.ones(2, 1, 3, 3), torch.arange(9.0).reshape(1, 1, 3, 3)
    context = context_of(features[:1], labels, 2)
    assert DinoPropagation(window=5, topk=2).propagate(features[1], context)[0, 1, 1] == pytest.approx(4.0)


def test_context_keeps_the_first_frame_and_the_latest():
    frames = torch.arange(7.0)[:, None, None, None]
    context = Context(3, frames[0], frames[0])
    kept = []
    for frame in frames[1:]:
        kept.append(sorted(context.features.flatten().tolist()))
        context.add(frame, frame)
    assert kept == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]
    assert sorted(context.labels.flatten().tolist()) == [0, 5, 6]


@pytest.mark.gpu
def test_cuda_equals_cpu():
    features, labels = unit_frames(5, 9, 32, 30, 53), soft_labels(5, 8, 3, 30, 53)
    one, other = (
        Propagation().propagate(features[8].to(device), context_of(features[:8].to(device), labels.to(device), 8))
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(other.cpu(), one, atol=1e-4, rtol=0)
