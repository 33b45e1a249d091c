"""Solve, losses and targets against stored values, closed forms and identities."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lila_train.training.config import TrainConfig
from lila_train.training.losses import count_valid, losses_of
from lila_train.training.ridge import fit, predict, solve
from lila_train.training.targets import consistent, half_image_units, log_depth, moments, standardize, warp


def loss(name: str, predicted: torch.Tensor, cues: torch.Tensor, valid: torch.Tensor, **settings: object) -> float:
    """The value of one loss term."""
    config = TrainConfig(steps=1, **settings)  # type: ignore[arg-type]
    return losses_of(predicted, cues, valid, count_valid(valid), config).terms[name].item()


@pytest.mark.parametrize("solver", ["cholesky", "lu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_ridge_equals_the_reference_solution(shared: Path, solver: str, dtype: torch.dtype, tolerance: float) -> None:
    z = np.load(shared / "conformance/ridge.npz")
    x, y, c = (torch.from_numpy(z[k]).to(dtype)[None] for k in ("features", "cues", "weights"))
    found = solve(x, y, c, strength=float(z["lam"]), solver=solver)
    np.testing.assert_allclose(found[0].double().numpy(), z["solution"], atol=tolerance)


def test_vanishing_strength_is_least_squares() -> None:
    x, y = torch.randn(1, 200, 5, dtype=torch.float64), torch.randn(1, 200, 3, dtype=torch.float64)
    found = solve(x, y, torch.ones(1, 200, dtype=torch.float64), strength=1e-12)
    torch.testing.assert_close(found, torch.linalg.lstsq(x, y).solution, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("strength", [0.1, 2.0])
def test_one_feature_has_its_closed_form(strength: float) -> None:
    """w = (Σ c x y / N) / (Σ c x² / N + λ), N being all pixels, those of weight 0 too."""
    xs, ys, cs = [0.5, -2.0, 1.5, 3.0], [1.0, 0.25, -2.0, 4.0], [1.0, 0.5, 0.0, 0.75]
    moment = sum(c * x * y for x, y, c in zip(xs, ys, cs, strict=True)) / 4
    power = sum(c * x * x for x, c in zip(xs, cs, strict=True)) / 4
    x, y, c = (torch.tensor(values, dtype=torch.float64)[None] for values in (xs, ys, cs))
    found = solve(x[..., None], y[..., None], c, strength)
    assert found.item() == pytest.approx(moment / (power + strength))


@pytest.mark.parametrize("solver", ["cholesky", "lu"])
def test_gradients_of_the_solve_agree_with_finite_differences(solver: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, 4, dtype=torch.float64, requires_grad=True)
    y, c = torch.randn(2, 12, 3, dtype=torch.float64), torch.rand(2, 12, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda features: solve(features, y, c, 0.1, solver), (x,))


def test_ridge_stays_in_float32_under_autocast() -> None:
    x, y, c = torch.randn(1, 64, 8), torch.randn(1, 64, 2), torch.ones(1, 64)
    expected = solve(x, y, c, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(solve(x, y, c, 0.1), expected)


def linear(features: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The map W of a world whose cues are linear in the features and a constant."""
    with_bias = torch.cat((features, torch.ones_like(features[:, :1])), dim=1)
    return torch.einsum("bdhw,bdk->bkhw", with_bias, w)


def test_a_linear_world_is_predicted_from_its_context() -> None:
    torch.manual_seed(1)
    truth = torch.randn(2, 9, 3)
    context, query = torch.randn(2, 8, 64, 64), torch.randn(2, 8, 64, 64)
    cues = linear(context, truth)
    found = fit(context, cues, torch.ones(2, 3, 64, 64), cells=32, strength=1e-6)
    torch.testing.assert_close(predict(query, found), linear(query, truth), atol=1e-3, rtol=1e-3)


def test_cells_that_are_mostly_masked_do_not_count() -> None:
    torch.manual_seed(2)
    context, cues = torch.randn(1, 4, 64, 64), torch.randn(1, 2, 64, 64)
    masks = torch.ones(1, 3, 64, 64)
    masks[..., :32] = 0
    masks[..., 16:32] = 0.7  # dropped: all three together are 0.34
    masks[:, 0, :, 32:] = 0.75  # kept: above one half
    poisoned = cues.clone()
    poisoned[..., :32] = 1e4
    clean = fit(context, cues, masks, cells=32, strength=0.1)
    torch.testing.assert_close(fit(context, poisoned, masks, cells=32, strength=0.1), clean)


def test_losses_equal_the_reference_values(shared: Path) -> None:
    z = np.load(shared / "conformance/loss.npz")
    predicted, cues = (torch.from_numpy(z[k]) for k in ("prediction", "cues"))
    valid = torch.from_numpy(z["valid"])
    assert abs(loss("l1", predicted, cues, valid) - z["l1"]) < 1e-6
    assert abs(loss("edge", predicted, cues, valid) - z["edge"]) < 1e-6
    np.testing.assert_allclose(log_depth(torch.from_numpy(z["inverse_depth"])).numpy(), z["log_depth"], atol=1e-6)


def test_the_signed_edge_loss_sees_a_flipped_sign_and_the_absolute_one_does_not() -> None:
    cues = torch.linspace(0, 1, 8).expand(1, 1, 8, 8).clone()
    valid = torch.ones_like(cues, dtype=torch.bool)
    assert loss("edge", -cues, cues, valid) == pytest.approx(0, abs=1e-7)
    weight = 1 - math.exp(-(1 / 7) / 0.1)
    assert loss("edge", -cues, cues, valid, edge_form="signed") == pytest.approx(weight * 2 / 7, rel=1e-5)


def test_a_difference_counts_where_both_entries_are_valid() -> None:
    """One pixel of 5 is unknown: of four differences along x two count; a ramp that is predicted flat errs by 1."""
    cues = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 2, 5)
    valid = torch.ones(1, 1, 2, 5, dtype=torch.bool)
    valid[..., 2] = False
    wild = torch.zeros_like(cues).masked_fill(~valid, 100.0)
    weight = 1 - math.exp(-1 / 0.1)
    assert loss("edge", wild, cues, valid) == pytest.approx(weight)


def test_the_loss_is_0_without_valid_entries() -> None:
    x, none = torch.randn(1, 2, 6, 6), torch.zeros(1, 2, 6, 6, dtype=torch.bool)
    assert loss("l1", x, -x, none) == 0
    assert loss("edge", x, -x, none) == 0


def test_zero_flow_warps_to_identity() -> None:
    values = torch.rand(1, 3, 20, 36)
    torch.testing.assert_close(warp(values, torch.zeros(1, 2, 20, 36)), values)


@settings(max_examples=20, deadline=None)
@given(st.integers(-4, 4), st.integers(-4, 4))
def test_warp_by_whole_pixels_shifts(dx: int, dy: int) -> None:
    values = torch.arange(24 * 40, dtype=torch.float32).view(1, 1, 24, 40)
    flow = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 24, 40).contiguous()
    inside = warp(values, flow)[0, 0, 4:-4, 4:-4]
    torch.testing.assert_close(inside, values[0, 0, 4 + dy : 20 + dy, 4 + dx : 36 + dx])


def test_consistency_depends_on_the_aspect_ratio() -> None:
    """e < 0.05·ln 2 in half-image units: 3.47 px of 200 across, 1.73 px of 100 down."""
    for axis, limit_px in ((0, 0.05 * math.log(2) * 100), (1, 0.05 * math.log(2) * 50)):
        for factor, expected in ((0.98, True), (1.02, False)):
            flow = torch.zeros(1, 2, 100, 200)
            flow[:, axis] = limit_px * factor
            assert bool(consistent(flow, torch.zeros_like(flow)).all()) is expected


def test_backward_flow_is_sampled_where_forward_flow_leads() -> None:
    """All of a moves 8 px to the right; in b only what lies from column 20 on comes back."""
    there, back = torch.zeros(2, 1, 2, 20, 40).unbind()
    there[:, 0], back[:, 0, :, 20:] = 8, -8
    found = consistent(there, back)[0, 0]
    assert not found[:, :12].any()
    assert found[:, 12:].all()


def test_half_image_units() -> None:
    flow = torch.ones(1, 2, 10, 40)
    torch.testing.assert_close(half_image_units(flow)[0, :, 0, 0], torch.tensor([2 / 40, 2 / 10]))


def test_standardize_uses_both_maps() -> None:
    a, b = torch.randn(3, 2, 8, 8) * 3 + 1, torch.randn(3, 2, 8, 8) - 4
    joined = torch.cat((a.flatten(), b.flatten()))
    expected = (a - joined.mean()) / (1e-3 + joined.std())
    torch.testing.assert_close(standardize(a, moments((a, b))), expected, atol=1e-5, rtol=1e-5)
