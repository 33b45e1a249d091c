"""What the predicted cues are measured by: L1 and edge-weighted gradients (LILA, section 3; METHOD section 5)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lila_train.settings import EdgeForm


def l1_loss(
    predicted: Float[Tensor, "*b k h w"], cues: Float[Tensor, "*b k h w"], valid: Bool[Tensor, "*b k h w"]
) -> Float[Tensor, ""]:
    """Mean absolute error over the valid entries; 0 where there is none."""
    return _masked_mean((predicted - cues).abs(), valid)


def edge_loss(
    predicted: Float[Tensor, "*b k h w"],
    cues: Float[Tensor, "*b k h w"],
    valid: Bool[Tensor, "*b k h w"],
    *,
    sigma: float = 0.1,
    form: EdgeForm = "absolute",
) -> Float[Tensor, ""]:
    """Error of the forward differences, weighted by w = 1 − exp(−|g(cues)|/σ), the means of both axes added.

    An entry counts where both its neighbours are valid. `absolute` compares magnitudes (the reference's code), `signed`
    the differences themselves (the paper's formula).
    """
    total = predicted.new_zeros(())
    for axis in (-1, -2):
        g_predicted, g_cues = torch.diff(predicted, dim=axis), torch.diff(cues, dim=axis)
        weight = 1 - torch.exp(-g_cues.abs() / sigma)
        error = g_predicted - g_cues if form == "signed" else g_predicted.abs() - g_cues.abs()
        length = valid.shape[axis] - 1
        both = valid.narrow(axis, 0, length) & valid.narrow(axis, 1, length)
        total = total + _masked_mean(weight * error.abs(), both)
    return total


def _masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)
