"""What the predicted cues are measured by: L1 and edge-weighted gradients (docs/method.md, "Solve and loss").

A loss is a sum over valid entries, divided once by their number. The number may be that of a larger batch, of which the
entries at hand are a part: the parts' losses then add up to the batch's, over ranks and over chunks alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lila_train.training.config import EdgeForm
from lila_train.training.distributed import all_reduce_mean

ALONG_X, ALONG_Y = -1, -2


@dataclass(frozen=True)
class Counts:
    """How many entries are valid: of a map, and of its differences along x and y."""

    entries: Tensor
    along_x: Tensor
    along_y: Tensor


def count(valid: Bool[Tensor, "*b k h w"]) -> Counts:
    """Valid entries per rank, on average over all ranks, so that the mean of the ranks' losses is the batch's loss."""
    masks = (valid, _both(valid, ALONG_X), _both(valid, ALONG_Y))
    return Counts(*all_reduce_mean(torch.stack([mask.sum().float() for mask in masks])).clamp(min=1).unbind())


def l1_loss(
    predicted: Float[Tensor, "*b k h w"],
    cues: Float[Tensor, "*b k h w"],
    valid: Bool[Tensor, "*b k h w"],
    counts: Counts | None = None,
) -> Float[Tensor, ""]:
    """Absolute error over the valid entries, divided by `counts` (those of `valid` if not given)."""
    counts = counts or count(valid)
    return ((predicted - cues).abs() * valid).sum() / counts.entries


def edge_loss(
    predicted: Float[Tensor, "*b k h w"],
    cues: Float[Tensor, "*b k h w"],
    valid: Bool[Tensor, "*b k h w"],
    counts: Counts | None = None,
    *,
    sigma: float = 0.1,
    form: EdgeForm = "absolute",
) -> Float[Tensor, ""]:
    """Error of the forward differences, weighted by w = 1 − exp(−|g(cues)|/σ), the means of both axes added.

    An entry counts where both its neighbours are valid. `absolute` compares magnitudes (the reference's code), `signed`
    the differences themselves (the paper's formula). All entries must be numbers, valid or not.
    """
    counts = counts or count(valid)
    total = predicted.new_zeros(())
    for axis, number in ((ALONG_X, counts.along_x), (ALONG_Y, counts.along_y)):
        g_predicted, g_cues = torch.diff(predicted, dim=axis), torch.diff(cues, dim=axis)
        length = g_cues.abs()
        weight = torch.expm1(length * (-1 / sigma)).neg_().mul_(_both(valid, axis))
        error = g_predicted - g_cues if form == "signed" else g_predicted.abs() - length
        total = total + (weight * error.abs()).sum() / number
    return total


def _both(valid: Tensor, axis: int) -> Tensor:
    length = valid.shape[axis] - 1
    return valid.narrow(axis, 0, length) & valid.narrow(axis, 1, length)
