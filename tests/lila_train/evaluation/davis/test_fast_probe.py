"""The linear probe against a plain loop of PyTorch's own convolutions and AdamW, and on what can be seen by colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lila_train.evaluation import protocols
from lila_train.evaluation.davis import linear_probe
from lila_train.evaluation.davis.fast_probe import Acceleration, AdamW, Problem, solve
from lila_train.evaluation.davis.knn import Video
from lila_train.evaluation.davis.linear_probe import LpSettings
from lila_train.evaluation.protocols import Options
from lila_train.model.resize import as_input
from tests.lila_train.evaluation.test_harness import CPU, StandIn
from tests.lila_train.evaluation.worlds import COLORS, ColorModel, moving_squares, write_davis


def example(seed: int = 0, size: tuple[int, int] = (48, 64), channels: tuple[int, int] = (12, 6)):
    """Labels of squares, and two maps of other sizes that tell them apart in part."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(moving_squares(1)[0].astype(np.int64))
    target = F.one_hot(labels).movedim(-1, 0).float()
    target = F.interpolate(target[None], size, mode="nearest-exact")[0]
    maps = []
    for count, (height, width) in zip(channels, ((6, 8), (24, 32)), strict=True):
        seen = F.interpolate(target[None], (height, width), mode="area")[0]
        mixed = torch.einsum("kyx,kc->cyx", seen, torch.randn(3, count, generator=draw))
        maps.append(mixed + 0.5 * torch.randn(count, height, width, generator=draw))
    problem = Problem(maps, target)
    start = linear_probe.first_weights(3, channels, seed, "example")
    return problem, start


def plain_loop(problem: Problem, start: torch.Tensor, adamw: AdamW) -> tuple[float, list[nn.Conv2d]]:
    """What the protocol says, word by word."""
    convolutions, at = [], 0
    for features in problem.maps:
        convolution = nn.Conv2d(len(features), problem.n_classes, 1)
        for parameter in (convolution.weight, convolution.bias):
            parameter.data = start[at : at + parameter.numel()].view_as(parameter).clone()
            at += parameter.numel()
        convolutions.append(convolution)
    parameters = [parameter for convolution in convolutions for parameter in convolution.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=adamw.lr, weight_decay=adamw.weight_decay)
    labels = problem.target.argmax(dim=0)[None]
    for _ in range(adamw.iterations):
        optimizer.zero_grad()
        loss_of(convolutions, problem, labels).backward()
        optimizer.step()
    return loss_of(convolutions, problem, labels).item(), convolutions


def loss_of(convolutions: list[nn.Conv2d], problem: Problem, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits_of(convolutions, problem), labels)


def logits_of(convolutions: list[nn.Conv2d], problem: Problem) -> torch.Tensor:
    size = problem.target.shape[1:]
    parts = (conv(features[None]) for conv, features in zip(convolutions, problem.maps, strict=True))
    return sum(F.interpolate(part, size, mode="bilinear", align_corners=False) for part in parts)


def test_without_tolerance_it_is_the_plain_loop():
    problem, start = example()
    adamw = AdamW(iterations=50)
    solution = solve(problem, start, adamw, Acceleration(tolerance=0.0))
    loss, convolutions = plain_loop(problem, start, adamw)
    assert solution.evaluations == 50
    assert problem.loss_and_gradient(solution.parameters)[0] == pytest.approx(loss, abs=1e-6)
    expected = torch.cat([p.flatten() for conv in convolutions for p in conv.parameters()])
    torch.testing.assert_close(solution.parameters, expected.detach(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("seed", [1, 2])
def test_with_it_the_loss_is_the_plain_loop_s_at_a_fraction_of_the_gradients(seed):
    problem, start = example(seed, size=(96, 128))
    solution = solve(problem, start, AdamW(), Acceleration(coarse_side=24))
    loss, convolutions = plain_loop(problem, start, AdamW())
    assert problem.loss_and_gradient(solution.parameters)[0] == pytest.approx(loss, abs=1e-4)
    assert solution.evaluations < 100
    same = problem.logits(solution.parameters).argmax(dim=0) == logits_of(convolutions, problem)[0].argmax(dim=0)
    assert same.float().mean() > 0.999


def test_no_acceleration_can_be_had_on_a_small_frame_and_none_is_pretended():
    problem, start = example()
    coarse = problem.coarse(side=60)
    torch.testing.assert_close(coarse.target, problem.target)
    torch.testing.assert_close(coarse.logits(start), problem.logits(start))


def test_the_coarse_problem_averages_what_the_full_one_sees():
    problem, start = example(size=(96, 128))
    coarse = problem.coarse(side=24)
    assert coarse.target.shape == (3, 24, 32)
    torch.testing.assert_close(coarse.target.sum(dim=0), torch.ones(24, 32))
    averaged = F.avg_pool2d(problem.logits(start), 4)
    torch.testing.assert_close(coarse.logits(start), averaged, atol=1e-5, rtol=1e-5)


def test_first_weights_depend_on_seed_and_sequence_alone():
    one = linear_probe.first_weights(3, [16], 0, "dog")
    assert one.shape == (3 * 17,)
    assert one.abs().max() <= 0.25
    torch.testing.assert_close(linear_probe.first_weights(3, [16], 0, "dog"), one)
    for seed, name in ((1, "dog"), (0, "cow")):
        assert not torch.equal(linear_probe.first_weights(3, [16], seed, name), one)


def test_colours_are_told_apart_in_every_later_frame():
    truth = moving_squares(4)
    video = Video("squares", (COLORS[labels] for labels in truth), truth[0])
    settings = LpSettings(lr=0.05, iterations=300)
    maps_of = lambda frame: [ColorModel().pixel_map(as_input(frame, (48, 64), CPU))[0]]  # noqa: E731
    predicted = list(linear_probe.segment(video, maps_of, settings))
    assert len(predicted) == 3
    for labels, expected in zip(predicted, truth[1:], strict=True):
        assert labels.dtype == np.uint8
        assert (labels == expected).mean() > 0.99


def test_the_protocol_uses_the_grid_alone_or_both_maps(tmp_path):
    task = protocols.open_task("davis-lp@lila", write_davis(tmp_path, ("one",), count=4), Options(seed=5))
    model = StandIn().load(CPU)
    assert task.settings["seed"] == 5
    assert task.settings["iterations"] == 2000
    assert task.derived(model) == {"native_px": [48, 64], "frame_px": [136, 180]}
    record = task.run(model, "lila", "one", tmp_path / "out", lambda: None)
    assert task.figures([record])["JF"] > 0.3  # 2,000 small steps from random weights, on three channels
    calls = len(model.spec.calls)
    task.run(model, "encoder", "one", tmp_path / "out", lambda: None)
    assert (calls, len(model.spec.calls) - calls) == (8, 4)
