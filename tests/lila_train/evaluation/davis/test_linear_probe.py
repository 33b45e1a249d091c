"""The linear probe and its fast solver against a loop of PyTorch convolutions, and on frames of plain colors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lila_train.evaluation import protocols
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.linear_probe import (
    LinearProbeTask,
    LpSettings,
    Problem,
    coarsened,
    fit,
    fit_fast,
    initial_parameters,
)
from lila_train.evaluation.davis.task import open_davis
from stores.errors import LilaError
from tests.lila_train.evaluation.test_harness import CPU, StandIn
from tests.lila_train.evaluation.worlds import COLORS, ColorModel, moving_squares, write_davis


def example(seed: int = 0, size: tuple[int, int] = (48, 64), channels: tuple[int, int] = (12, 6)):
    """Return labels of squares and two maps of other sizes that separate them in part, and initial parameters."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(moving_squares(1)[0].astype(np.int64))
    target = F.one_hot(labels).movedim(-1, 0).float()
    target = F.interpolate(target[None], size, mode="nearest-exact")[0]
    maps = []
    for count, (height, width) in zip(channels, ((6, 8), (24, 32)), strict=True):
        seen = F.interpolate(target[None], (height, width), mode="area")[0]
        mixed = torch.einsum("kyx,kc->cyx", seen, torch.randn(3, count, generator=draw))
        maps.append(mixed + 0.5 * torch.randn(count, height, width, generator=draw))
    return Problem(maps, target), initial_parameters(3, channels, seed, "example")


def plain_loop(problem: Problem, start: torch.Tensor, settings: LpSettings) -> tuple[float, list[nn.Conv2d]]:
    """Train nn.Conv2d by torch.optim.AdamW; return the final loss and the convolutions."""
    convolutions, at = [], 0
    for features in problem.maps:
        convolution = nn.Conv2d(len(features), len(problem.target), 1)
        for parameter in (convolution.weight, convolution.bias):
            parameter.data = start[at : at + parameter.numel()].view_as(parameter).clone()
            at += parameter.numel()
        convolutions.append(convolution)
    parameters = [parameter for convolution in convolutions for parameter in convolution.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    labels = problem.target.argmax(dim=0)[None]
    for _ in range(settings.iterations):
        optimizer.zero_grad()
        F.cross_entropy(logits_of(convolutions, problem), labels).backward()
        optimizer.step()
    return F.cross_entropy(logits_of(convolutions, problem), labels).item(), convolutions


def logits_of(convolutions: list[nn.Conv2d], problem: Problem) -> torch.Tensor:
    size = problem.target.shape[1:]
    parts = (conv(features[None]) for conv, features in zip(convolutions, problem.maps, strict=True))
    return sum(F.interpolate(part, size, mode="bilinear", align_corners=False) for part in parts)


@pytest.fixture
def full_gradients(monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """The problems whose loss was computed, one entry per gradient."""
    computed: list[Problem] = []
    loss = Problem.loss
    monkeypatch.setattr(Problem, "loss", lambda self, parameters: (computed.append(self), loss(self, parameters))[1])
    return computed


def test_the_probe_is_trained_as_convolutions_are(full_gradients):
    problem, start = example()
    settings = LpSettings(iterations=50)
    parameters = fit(problem, start, settings)
    assert len(full_gradients) == 50
    loss, convolutions = plain_loop(problem, start, settings)
    assert problem.loss(parameters).item() == pytest.approx(loss, abs=1e-6)
    expected = torch.cat([p.flatten() for conv in convolutions for p in conv.parameters()])
    torch.testing.assert_close(parameters, expected.detach(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_fast_solver_gives_the_same_loss_and_labels_with_a_fraction_of_the_gradients(seed, full_gradients):
    problem, start = example(seed, size=(96, 128))
    parameters = fit_fast(problem, start, LpSettings(), coarse_side=24)
    assert 1 < sum(one is problem for one in full_gradients) < 100
    loss, convolutions = plain_loop(problem, start, LpSettings())
    assert problem.loss(parameters).item() == pytest.approx(loss, abs=1e-4)
    same = problem.logits(parameters).argmax(dim=0) == logits_of(convolutions, problem)[0].argmax(dim=0)
    assert same.float().mean() > 0.999


def test_a_frame_smaller_than_the_coarse_problem_is_not_coarsened():
    problem, start = example()
    coarse = coarsened(problem, side=60)
    torch.testing.assert_close(coarse.target, problem.target)
    torch.testing.assert_close(coarse.logits(start), problem.logits(start))


def test_the_coarse_problem_averages_over_cells():
    problem, start = example(size=(96, 128))
    coarse = coarsened(problem, side=24)
    assert coarse.target.shape == (3, 24, 32)
    torch.testing.assert_close(coarse.target.sum(dim=0), torch.ones(24, 32))
    averaged = F.avg_pool2d(problem.logits(start), 4)
    torch.testing.assert_close(coarse.logits(start), averaged, atol=1e-5, rtol=1e-5)


def test_initial_parameters_depend_on_seed_and_sequence_only():
    one = initial_parameters(3, [16], 0, "dog")
    assert one.shape == (3 * 17,)
    assert one.abs().max() <= 0.25
    torch.testing.assert_close(initial_parameters(3, [16], 0, "dog"), one)
    for seed, name in ((1, "dog"), (0, "cow")):
        assert not torch.equal(initial_parameters(3, [16], seed, name), one)


@pytest.mark.parametrize("solver", [fit, fit_fast])
def test_colors_are_segmented_in_every_later_frame(solver, tmp_path):
    truth = moving_squares(4)
    frames = (COLORS[labels] for labels in truth)
    settings = LpSettings(short_side_px=48, lr=0.05, iterations=300)
    task = LinearProbeTask("davis-lp@lila", open_davis(write_davis(tmp_path)), EvalConfig(), settings, solver)
    predicted = list(task.segment(ColorModel(), "lila", "squares", frames, truth[0]))
    assert len(predicted) == 3
    for labels, expected in zip(predicted, truth[1:], strict=True):
        assert labels.dtype == np.uint8
        assert (labels == expected).mean() > 0.99


def test_the_protocol_uses_the_grid_alone_or_both_maps(tmp_path):
    data = write_davis(tmp_path, ("one",), count=4)
    task = protocols.open_task("davis-lp@lila", data, EvalConfig(seed=5, fast_probe=True))
    model = StandIn().load(CPU)
    assert task.settings["seed"] == 5
    assert task.settings["iterations"] == 2000
    assert task.derived(model) == {"native_px": [48, 64], "frame_px": [136, 180]}
    record = task.run(model, "lila", "one", tmp_path / "out", lambda: None)
    assert task.metrics([record])["JF"] > 0.3  # 2,000 small steps from random weights, on three channels
    calls = len(model.spec.calls)
    task.run(model, "encoder", "one", tmp_path / "out", lambda: None)
    assert (calls, len(model.spec.calls) - calls) == (8, 4)


def test_the_fast_solver_is_an_option_of_this_protocol_only(tmp_path):
    data = write_davis(tmp_path, ("one",), count=4)
    plain, fast = (protocols.open_task("davis-lp@lila", data, EvalConfig(fast_probe=value)) for value in (False, True))
    assert (plain.fit, fast.fit) == (fit, fit_fast)
    assert fast.settings == plain.settings | {"fast_probe": True}
    with pytest.raises(
        LilaError, match=r"--fast-probe does not apply to davis-knn@lila, which takes --limit, --short-side"
    ):
        protocols.open_task("davis-knn@lila", data, EvalConfig(fast_probe=True))
