"""Views, solve and losses against a slow oracle in float64: pixel by pixel, from the formulas of docs/method.md."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lila_train.training.config import TrainConfig
from lila_train.training.crops import make_views
from lila_train.training.data import PairBatch
from lila_train.training.losses import losses_of
from lila_train.training.objective import Erm, InContext

BASE, GRID, SIZE, CELLS, PAIRS, CHANNELS = 24, 12, 8, 4, 3, 3
CONFIG = TrainConfig(steps=1, crop_size=SIZE, cells=CELLS, channels=CHANNELS, cues=("flow", "depth", "features"))
BASE_HFLIP, QUERY_HFLIP = (False, True, True), (True, False, True)


def batch_of(seed: int = 0) -> PairBatch:
    """Three pairs: the query mirrored, the base mirrored, both. Parts of flow and depth are unreliable."""
    rng = np.random.default_rng(seed)
    forward = rng.normal(0.8, 0.1, (PAIRS, 2, GRID, GRID))
    backward = -forward + rng.normal(0, 0.06, forward.shape)
    backward[:, :, 3:6, 5:9] += 4
    depth = rng.uniform(20, 200, (PAIRS, 2, GRID, GRID))
    depth[:, :, 6:9, 1:5] = 1
    boxes = [[(3, 2, 19, b), (5, 1, 15, b != q)] for b, q in zip(BASE_HFLIP, QUERY_HFLIP, strict=True)]
    normals = rng.normal(size=(PAIRS, 2, 3, GRID, GRID))
    cues = {
        "flow_forward": forward,
        "flow_backward": backward,
        "depth": depth,
        "features": rng.normal(size=(PAIRS, 2, CHANNELS, 6, 6)),
        "normals": normals / np.linalg.norm(normals, axis=2, keepdims=True),
    }
    return PairBatch(
        rgb=torch.zeros(PAIRS, 2, 3, BASE, BASE, dtype=torch.uint8),
        boxes=torch.tensor(boxes),
        base_hflip=torch.tensor(BASE_HFLIP),
        channels=torch.arange(CHANNELS).expand(PAIRS, -1),
        clips=torch.arange(PAIRS),
        cues={name: torch.from_numpy(values).float() for name, values in cues.items()},
    )


def bilinear(grid: np.ndarray, y: float, x: float) -> np.ndarray:
    """Read c×h×w at a position in its cells (0 is the center of the first), beyond the border the border's value."""
    y, x = (min(max(p, 0.0), n - 1.0) for p, n in zip((y, x), grid.shape[1:], strict=True))
    top, left = (min(int(p), n - 2) for p, n in zip((y, x), grid.shape[1:], strict=True))
    dy, dx = y - top, x - left
    upper = (1 - dx) * grid[:, top, left] + dx * grid[:, top, left + 1]
    return (1 - dy) * upper + dy * ((1 - dx) * grid[:, top + 1, left] + dx * grid[:, top + 1, left + 1])


def view_of(grid: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The region of a map over the base crop, resized to the view and mirrored if the box is."""
    top, left, side, hflip = box
    cells, found = grid.shape[-1] / BASE, np.empty((len(grid), SIZE, SIZE))
    for row in range(SIZE):
        for column in range(SIZE):
            y, x = top + (row + 0.5) * side / SIZE, left + (column + 0.5) * side / SIZE
            found[:, row, SIZE - 1 - column if hflip else column] = bilinear(grid, y * cells - 0.5, x * cells - 0.5)
    return found


def reliable_flow(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """1×h×w: 1 where exp(−e/0.05) > ½, e the length of there plus back where it leads, in half-image units."""
    found = np.zeros((1, *there.shape[1:]))
    for y in range(GRID):
        for x in range(GRID):
            u, v = there[:, y, x] + bilinear(back, y + there[1, y, x], x + there[0, y, x])
            found[0, y, x] = math.exp(-math.hypot(2 * u / GRID, 2 * v / GRID) / 0.05) > 0.5
    return found


def oracle(batch: PairBatch, erm: bool) -> list[dict[str, np.ndarray]]:
    """Flow, depth, normals and features of the context and the query views, and the masks of flow and depth."""
    cues = {name: tensor.double().numpy() for name, tensor in batch.cues.items()}
    views: list[dict[str, list[np.ndarray]]] = [{}, {}]
    for view, (there, back, time) in enumerate(
        (("flow_forward", "flow_backward", 1), ("flow_backward", "flow_forward", -1))
    ):
        for pair in range(PAIRS):
            box = tuple(batch.boxes[pair, view].tolist())
            mirrored = box[3] if erm else BASE_HFLIP[pair]
            sign = -1.0 if mirrored else 1.0
            log_depth = np.log(1 + 1 / (0.01 * cues["depth"][pair, view, None] + 0.1)) / math.log(11)
            normals = view_of(cues["normals"][pair, view], box)
            features = view_of(cues["features"][pair, view], box)
            maps = {
                "flow": view_of(cues[there][pair] * 2 / GRID, box) * time * np.array([sign, 1.0])[:, None, None],
                "depth": view_of(log_depth, box),
                "normals": normals / np.linalg.norm(normals, axis=0) * np.array([sign, 1.0, 1.0])[:, None, None],
                "features": features / np.linalg.norm(features, axis=0),
                "reliable": view_of(reliable_flow(cues[there][pair], cues[back][pair]), box),
                "near": view_of((log_depth < 0.9).astype(float), box),
            }
            for name, values in maps.items():
                views[view].setdefault(name, []).append(values)
    found = [{name: np.stack(values) for name, values in view.items()} for view in views]
    for name in ("flow", "depth"):
        both = np.concatenate([view[name].ravel() for view in found])
        for view in found:
            view[name] = (view[name] - both.mean()) / (1e-3 + both.std(ddof=1))
    return found


def target_and_valid(view: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    masks = [view["reliable"] > 0, view["reliable"] > 0, view["near"] > 0]
    valid = np.concatenate((*masks, np.ones_like(view["features"], dtype=bool)), axis=1)
    return np.concatenate([view[name] for name in ("flow", "depth", "features")], axis=1), valid


def pooled(maps: np.ndarray) -> np.ndarray:
    """B×c×N means of the cells."""
    side = SIZE // CELLS
    return maps.reshape(*maps.shape[:2], CELLS, side, CELLS, side).mean((3, 5)).reshape(*maps.shape[:2], -1)


def predicted_by_solve(x: tuple[np.ndarray, np.ndarray], context: dict[str, np.ndarray]) -> np.ndarray:
    """W from the cells of the context, applied to the query's features; the bias is regularized too."""
    target, _ = target_and_valid(context)
    found = []
    for pair in range(PAIRS):
        cells = np.concatenate((pooled(x[0])[pair], np.ones((1, CELLS**2))))
        weights = (pooled(context["reliable"]) ** 2 * pooled(context["near"]))[pair, 0]
        weights = np.where(weights < 0.5, 0, weights)
        gram = (cells * weights) @ cells.T / CELLS**2 + 0.1 * np.eye(len(cells))
        w = np.linalg.solve(gram, (cells * weights) @ pooled(target)[pair].T / CELLS**2)
        found.append(np.einsum("dhw,dk->khw", x[1][pair], w[:-1]) + w[-1][:, None, None])
    return np.stack(found)


def losses_by_entry(predicted: list[np.ndarray], views: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    """L1 and edge: means over valid entries of all pairs of the scored views."""
    errors: list[float] = []
    edges: dict[int, list[float]] = {2: [], 3: []}
    for guess, view in zip(predicted, views, strict=True):
        target, valid = target_and_valid(view)
        errors += np.abs(guess - target)[valid].tolist()
        for axis, found in edges.items():
            g, own = np.diff(guess, axis=axis), np.diff(target, axis=axis)
            ends = [np.take(valid, range(first, SIZE - 1 + first), axis=axis) for first in (0, 1)]
            weighted = (1 - np.exp(-np.abs(own) / 0.1)) * np.abs(np.abs(g) - np.abs(own))
            found += weighted[ends[0] & ends[1]].tolist()
    return float(np.mean(errors)), float(sum(np.mean(found) for found in edges.values()))


@pytest.mark.parametrize("objective", ["in-context", "erm"])
def test_views_equal_the_oracle(objective: str) -> None:
    """Signs of mirrored pairs, standardization over both views, and masks sampled from the full grid."""
    batch, expected = batch_of(), oracle(batch_of(), objective == "erm")
    config = CONFIG.replace(objective=objective)
    for found, view in zip(make_views(batch, config), expected, strict=True):
        target, valid = target_and_valid(view)
        np.testing.assert_allclose(found.target.numpy(), target, atol=2e-5)
        np.testing.assert_array_equal(found.valid.numpy(), valid)
        assert 0 < (found.weight.numpy() % 1 > 0).mean() < 1  # fractions, and ones or zeros
        masks = np.concatenate((view["reliable"], view["reliable"], view["near"], np.ones_like(view["near"])), axis=1)
        np.testing.assert_allclose(found.weight.numpy(), masks, atol=1e-5)
    for found, view in zip(make_views(batch, config.replace(cues=("normals",))), expected, strict=True):
        np.testing.assert_allclose(found.target.numpy(), view["normals"], atol=1e-5)
        np.testing.assert_array_equal(found.valid.numpy(), np.repeat(view["near"] > 0, 3, axis=1))


@pytest.mark.parametrize("objective", ["in-context", "erm"])
def test_losses_equal_the_oracle(objective: str) -> None:
    rng, batch = np.random.default_rng(1), batch_of()
    expected = oracle(batch, objective == "erm")
    x = rng.normal(size=(PAIRS, 5, SIZE, SIZE)), rng.normal(size=(PAIRS, 5, SIZE, SIZE))
    config = CONFIG.replace(objective=objective)
    context, query = make_views(batch, config)
    if objective == "erm":
        head = Erm(config, 5, CHANNELS)
        w, bias = (p.detach().double().numpy() for p in (head.rows.weight, head.rows.bias))
        guesses = [np.einsum("bdhw,kd->bkhw", one, w) + bias[:, None, None] for one in x]
        scored = expected
    else:
        head, guesses, scored = InContext(config), [predicted_by_solve(x, expected[0])], expected[1:]
    predictions = head(*(torch.from_numpy(one).float() for one in x), context, query)
    views = head.scored(context, query)
    counts = torch.stack([view.counts for view in views]).sum(0)
    parts = [losses_of(p, v.target, v.valid, counts, config).terms for p, v in zip(predictions, views, strict=True)]
    found = [sum(part[name] for part in parts).item() for name in ("l1", "edge")]
    np.testing.assert_allclose(found, losses_by_entry(guesses, scored), rtol=1e-4)


def test_a_mirrored_base_is_a_mirrored_video() -> None:
    """Cues of a mirrored video give the targets that a mirrored base gives of the video itself, in both views."""
    batch = batch_of()
    boxes = batch.boxes.clone()
    boxes[..., 1] = BASE - boxes[..., 1] - boxes[..., 2]
    boxes[..., 3] = 1 - boxes[..., 3]
    cues = {name: tensor.flip(-1) for name, tensor in batch.cues.items()}
    for name in ("flow_forward", "flow_backward"):
        cues[name] = cues[name] * torch.tensor([-1.0, 1.0])[:, None, None]
    video = replace(batch, boxes=boxes, base_hflip=~batch.base_hflip, cues=cues)
    for found, expected in zip(make_views(video, CONFIG), make_views(batch, CONFIG), strict=True):
        torch.testing.assert_close(found.target, expected.target, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.weight, expected.weight, atol=1e-5, rtol=1e-5)
