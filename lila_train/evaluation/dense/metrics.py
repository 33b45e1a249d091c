"""Figures of dense predictions as sums: a confusion matrix over a whole set, angles per image and then averaged.

Figures kept as sums, so that they add across batches, ranks and days; one division at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """A sum and how many values went into it; `Mean() + Mean.of([…])` is how a mean over parts is taken."""

    total: float = 0.0
    weight: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean:
        """The mean of `values`, each of weight 1."""
        listed = [float(value) for value in values]
        return cls(math.fsum(listed), float(len(listed)))

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> float | None:
        """The mean, or None where nothing was measured: a missing figure is missing, not 0."""
        return self.total / self.weight if self.weight else None


@dataclass(frozen=True)
class Tally:
    """Named means that add name by name; the tally of a union is the sum of the tallies of its parts."""

    means: Mapping[str, Mean] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        names = [*self.means, *(name for name in other.means if name not in self.means)]
        return Tally({name: self.means.get(name, Mean()) + other.means.get(name, Mean()) for name in names})

    def figure(self, name: str) -> float | None:
        """The mean of that name, None where nothing was measured."""
        return self.means.get(name, Mean()).value


IGNORED = 255
SHARES_UNDER_DEG = (11.25, 22.5, 30.0)


@dataclass(frozen=True)
class Confusion:
    """Pixels by true (rows) and predicted class (columns); matrices of parts add to that of the whole."""

    counts: Int[np.ndarray, "k k"]

    @classmethod
    def of(cls, truth: Int[Tensor, "*s"], prediction: Int[Tensor, "*s"], n_classes: int) -> Confusion:
        """Of labels 0 to n_classes − 1; 255 in the truth is left out."""
        known = truth != IGNORED
        pairs = truth[known].long() * n_classes + prediction[known].long()
        return cls(torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes).cpu().numpy())

    @classmethod
    def none(cls, n_classes: int) -> Confusion:
        """The matrix of no pixels, to add others to."""
        return cls(np.zeros((n_classes, n_classes), np.int64))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    def to_json(self) -> dict[str, Any]:
        """The matrix as nested lists, rows being true classes."""
        return {"confusion": self.counts.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Confusion:
        """The inverse of `to_json`."""
        return cls(np.array(content["confusion"], dtype=np.int64))

    def figures(self) -> dict[str, float | None]:
        """mIoU over the classes that occur in the truth, how many do not, and pixel accuracy."""
        found, total = self.iou(), int(self.counts.sum())
        absent = np.isnan(found)
        return {
            "miou": None if absent.all() else float(found[~absent].mean()),
            "pixel_accuracy": float(np.diag(self.counts).sum() / total) if total else None,
            "absent_classes": float(absent.sum()),
        }

    def iou(self) -> Float[np.ndarray, " k"]:
        """Of each class; NaN where it does not occur in the truth."""
        hit, true, predicted = np.diag(self.counts), self.counts.sum(axis=1), self.counts.sum(axis=0)
        return np.divide(hit, true + predicted - hit, out=np.full(len(hit), np.nan), where=true > 0)


def angles_deg(truth: Float[Tensor, "b 3 h w"], prediction: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    """The angle between two directions, in degrees."""
    cosine = torch.cosine_similarity(truth.double(), prediction.double(), dim=1).clamp(-1, 1)
    return torch.rad2deg(torch.arccos(cosine)).to(prediction.dtype)


@dataclass(frozen=True)
class Angles:
    """Sums over images, each of weight 1, of the RMSE in degrees and of the shares under three angles."""

    tally: Tally

    @classmethod
    def of(cls, truth: Float[Tensor, "b 4 h w"], prediction: Float[Tensor, "b 3 h w"]) -> Angles:
        """`truth`: a unit normal and, fourth, 1 where it is known; an image without any is left out."""
        tally = Tally()
        for error, known in zip(angles_deg(truth[:, :3], prediction), truth[:, 3] > 0, strict=True):
            found = error[known].double()
            if found.numel():
                shares = {f"under_{limit:g}": (found < limit).double().mean() for limit in SHARES_UNDER_DEG}
                figures = {"rmse_deg": found.square().mean().sqrt(), **shares}
                tally += Tally({name: Mean.of([value.item()]) for name, value in figures.items()})
        return cls(tally)

    def __add__(self, other: Angles) -> Angles:
        return Angles(self.tally + other.tally)

    def figures(self) -> dict[str, float | None]:
        """RMSE in degrees, and shares as fractions."""
        return {name: self.tally.figure(name) for name in ("rmse_deg", *(f"under_{x:g}" for x in SHARES_UNDER_DEG))}

    def to_json(self) -> dict[str, Any]:
        """By figure: the sum over images, and how many there are."""
        return {name: [mean.total, mean.weight] for name, mean in self.tally.means.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Angles:
        """The inverse of `to_json`."""
        return cls(Tally({name: Mean(total, weight) for name, (total, weight) in content.items()}))
