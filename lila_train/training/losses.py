"""Losses of the predicted cues (docs/method.md, "Solve and loss"): a table of terms.

A term gives sums over valid entries and the number of these entries. The sums are divided once, by the numbers of the
whole batch: the losses of micro-batches and ranks then add up to the batch's. A new term is a function pair, a row of
`LOSS_TERMS` and a field `<name>_weight` of `TrainConfig`; logs, charts and reports take their names from the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lila_train.training.config import TrainConfig

Reduce = Callable[[Tensor], Tensor]  # a statistic over ranks, or the identity
Maps = Float[Tensor, "*b k h w"]
Mask = Bool[Tensor, "*b k h w"]
X_AXIS, Y_AXIS = -1, -2


@dataclass(frozen=True)
class LossTerm:
    """A loss that is the sum of its parts' means over valid entries.

    `count(valid)` gives the number of valid entries by part, `sums(predicted, target, valid, config)` the sums of their
    errors; `title` is its name in charts.
    """

    title: str
    count: Callable[[Mask], Tensor]
    sums: Callable[[Maps, Maps, Mask, TrainConfig], Tensor]


def _edge_sums(predicted: Maps, target: Maps, valid: Mask, config: TrainConfig) -> Float[Tensor, " 2"]:
    """Sum the errors of forward differences along x and along y, weighted by w = 1 − exp(−|g(target)|/σ).

    A difference counts where both of its entries are valid; all entries must be finite. `edge_form` is `absolute` to
    compare magnitudes (the reference code), `signed` to compare the differences themselves (the paper's formula).
    """
    sums = []
    for axis in (X_AXIS, Y_AXIS):
        g_predicted, g_target = torch.diff(predicted, dim=axis), torch.diff(target, dim=axis)
        magnitude = g_target.abs()
        weight = torch.expm1(magnitude * (-1 / config.edge_sigma)).neg_().mul_(_both_valid(valid, axis))
        error = g_predicted - g_target if config.edge_form == "signed" else g_predicted.abs() - magnitude
        sums.append((weight * error.abs()).sum())
    return torch.stack(sums)


def _both_valid(valid: Tensor, axis: int) -> Tensor:
    length = valid.shape[axis] - 1
    return valid.narrow(axis, 0, length) & valid.narrow(axis, 1, length)


LOSS_TERMS: dict[str, LossTerm] = {
    "l1": LossTerm(
        "L1",
        count=lambda valid: valid.sum().float()[None],
        sums=lambda predicted, target, valid, _: ((predicted - target).abs() * valid).sum()[None],
    ),
    "edge": LossTerm(
        "edge",
        count=lambda valid: torch.stack([_both_valid(valid, axis).sum().float() for axis in (X_AXIS, Y_AXIS)]),
        sums=_edge_sums,
    ),
}


def loss_titles() -> dict[str, str]:
    """Return the titles of the losses in charts by their names in a run's log."""
    return {"loss": "total"} | {name: term.title for name, term in LOSS_TERMS.items()}


@dataclass(frozen=True)
class Losses:
    """The weighted total, which carries the gradient, and the terms by name."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Tensor]

    def __add__(self, other: Losses) -> Losses:
        terms = {name: value + other.terms[name] for name, value in self.terms.items()}
        return Losses(self.total + other.total, terms)

    def packed(self) -> Float[Tensor, " n"]:
        """Return the total and the terms in the order of LOSS_TERMS as one vector, without a gradient."""
        return torch.stack((self.total, *self.terms.values())).detach()

    @staticmethod
    def unpack(packed: Float[Tensor, " n"]) -> Losses:
        """Return the inverse of `packed`."""
        return Losses(packed[0], dict(zip(LOSS_TERMS, packed[1:], strict=True)))


def count_valid(valid: Mask) -> Float[Tensor, " t"]:
    """Return the numbers of valid entries: the parts of all terms, one after the other."""
    return torch.cat([term.count(valid) for term in LOSS_TERMS.values()])


def losses_of(predicted: Maps, target: Maps, valid: Mask, counts: Float[Tensor, " t"], config: TrainConfig) -> Losses:
    """Return the losses of one view's prediction, divided by `counts`, which may be those of a larger batch."""
    sums = [term.sums(predicted, target, valid, config) for term in LOSS_TERMS.values()]
    means = (torch.cat(sums) / counts.clamp(min=1)).split([len(parts) for parts in sums])
    terms = {name: parts.sum() for name, parts in zip(LOSS_TERMS, means, strict=True)}
    total = torch.stack([getattr(config, f"{name}_weight") * value for name, value in terms.items()]).sum()
    return Losses(total, terms)
