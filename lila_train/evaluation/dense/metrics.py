"""Metrics as sums that add across batches, images and parts, with one division at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

IGNORED = 255
ANGLE_THRESHOLDS_DEG = (11.25, 22.5, 30.0)


@dataclass(frozen=True)
class MeanSums:
    """Sum and weight of each named value: those of a union are the sums over its parts."""

    sums: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, float]) -> MeanSums:
        """Return one observation of each value, with weight 1."""
        return cls({name: (float(value), 1.0) for name, value in values.items()})

    def __add__(self, other: MeanSums) -> MeanSums:
        names = dict.fromkeys([*self.sums, *other.sums])
        pairs = {name: (self.sums.get(name, (0.0, 0.0)), other.sums.get(name, (0.0, 0.0))) for name in names}
        return MeanSums({name: (a[0] + b[0], a[1] + b[1]) for name, (a, b) in pairs.items()})

    def mean(self, name: str) -> float | None:
        """Return the mean of that name; None where nothing was measured: a missing metric is missing, not 0."""
        total, weight = self.sums.get(name, (0.0, 0.0))
        return total / weight if weight else None

    def metrics(self) -> dict[str, float | None]:
        return {name: self.mean(name) for name in self.sums}

    def to_json(self) -> dict[str, Any]:
        return {name: list(pair) for name, pair in self.sums.items()}


def angle_errors(truth: Float[Tensor, "b 4 h w"], outputs: Float[Tensor, "b k h w"]) -> MeanSums:
    """Return the RMSE of the angle in degrees and the shares under three thresholds, each image with weight 1.

    `truth`: a unit normal and, fourth, 1 where it is known; an image without any known normal is left out. The first
    three outputs are a direction of any length; a fourth, the concentration, is not measured.
    """
    cosine = torch.cosine_similarity(truth[:, :3].double(), outputs[:, :3].double(), dim=1).clamp(-1, 1)
    degrees = torch.rad2deg(torch.arccos(cosine)).to(outputs.dtype)
    under = {f"under_{limit:g}": limit for limit in ANGLE_THRESHOLDS_DEG}
    sums = MeanSums(dict.fromkeys(["rmse_deg", *under], (0.0, 0.0)))
    for error, known in zip(degrees, truth[:, 3] > 0, strict=True):
        angles = error[known].double()
        if angles.numel():
            shares = {name: (angles < limit).double().mean().item() for name, limit in under.items()}
            sums += MeanSums.of({"rmse_deg": angles.square().mean().sqrt().item(), **shares})
    return sums


@dataclass(frozen=True)
class Confusion:
    """Pixels by true (rows) and predicted class (columns); the matrix of a union is the sum over its parts."""

    counts: Int[np.ndarray, "k k"]

    @classmethod
    def of(cls, target: Shaped[Tensor, "b 1 h w"], logits: Float[Tensor, "b k h w"]) -> Confusion:
        """Count pixels by their label, 0 to k − 1, and the class with the largest logit; label 255 is left out."""
        n_classes, truth, known = logits.shape[1], target[:, 0].long(), target[:, 0] != IGNORED
        pairs = truth[known] * n_classes + logits.argmax(dim=1)[known]
        return cls(torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes).cpu().numpy())

    def __add__(self, other: Confusion) -> Confusion:
        return replace(self, counts=self.counts + other.counts)

    def iou(self) -> Float[np.ndarray, " k"]:
        """Return the IoU of each class; NaN where it does not occur in the truth."""
        hit, true, predicted = np.diag(self.counts), self.counts.sum(axis=1), self.counts.sum(axis=0)
        return np.divide(hit, true + predicted - hit, out=np.full(len(hit), np.nan), where=true > 0)

    def metrics(self) -> dict[str, float | None]:
        """Return mIoU over the classes that occur in the truth, how many do not, and pixel accuracy."""
        iou, total = self.iou(), int(self.counts.sum())
        absent = np.isnan(iou)
        return {
            "miou": None if absent.all() else float(iou[~absent].mean()),
            "pixel_accuracy": float(np.diag(self.counts).sum() / total) if total else None,
            "absent_classes": float(absent.sum()),
        }

    def to_json(self) -> dict[str, Any]:
        return {"confusion": self.counts.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Confusion:
        return cls(np.array(content["confusion"], dtype=np.int64))
