"""Region similarity J and boundary accuracy F of label sequences, equal to the official DAVIS-2017 scorer.

Semi-supervised setting: the objects are those of the first truth mask, the first and the last frame are not scored,
and void (255) is background. Metrics are fractions, not percent. Source: davisvideochallenge/davis2017-evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8

from lila_train.evaluation.dense.metrics import MeanSums
from stores.errors import LilaError

VOID = 255
TOLERANCE = 0.008  # of the image's diagonal

Mask = Bool[np.ndarray, "h w"]
AnyLabels = Integer[np.ndarray, "h w"]
NamedLabels = tuple[Integer[np.ndarray, "_ _"], Path | str]  # 0 = background, n = object n; name for error messages


@dataclass(frozen=True)
class ObjectScore:
    """J and F of one object in every scored frame (all but the first and the last), in frame order."""

    sequence: str
    object_id: int
    region: Sequence[float]
    boundary: Sequence[float]


def summarize(scores: Iterable[ObjectScore]) -> dict[str, float | None]:
    """Return J, F, their mean JF, and recall and decay of both, averaged over objects; None without objects.

    Every object has weight 1, whatever the length of its sequence.
    """
    sums = MeanSums()
    for score in scores:
        curves = {"J": statistics(score.region), "F": statistics(score.boundary)}
        sums += MeanSums.of({f"{key}_{name}": x for key, curve in curves.items() for name, x in curve.items()})
    j, f = sums.mean("J_mean"), sums.mean("F_mean")
    others = {name: sums.mean(name) for name in ("J_recall", "J_decay", "F_recall", "F_decay")}
    return {"J": j, "F": f, "JF": None if j is None or f is None else (j + f) / 2, **others}


def statistics(values: Sequence[float]) -> dict[str, float]:
    """Return mean, recall (share of frames above 0.5) and decay (first minus last quarter) of a per-frame curve.

    The quarters overlap by one frame, as in the official scorer.
    """
    curve = np.asarray(values, dtype=np.float64)
    edges = (np.round(np.linspace(1, len(curve), 5) + 1e-10) - 1).astype(int)
    first, last = curve[edges[0] : edges[1] + 1], curve[edges[-2] : edges[-1] + 1]
    recall = float((curve > 0.5).mean())
    return {"mean": float(curve.mean()), "recall": recall, "decay": float(first.mean()) - float(last.mean())}


def count_objects(first: AnyLabels, name: object) -> int:
    """Return the number of objects of a sequence's first mask; LilaError for none."""
    if not first.any():
        raise LilaError(
            f"expected at least one object in the first mask {name}, found none; "
            "annotate the objects to follow there, or take the sequence off the list"
        )
    return int(first.max())


def require_frames(sequence: str, n_frames: int) -> None:
    """Raise LilaError for a sequence without a frame to score."""
    if n_frames < 3:
        raise LilaError(
            f"expected at least 3 frames to score in sequence {sequence} (the first and the last are not scored), "
            f"found {n_frames}; add frames or take the sequence off the list"
        )


def score_sequence(sequence: str, frames: Iterable[tuple[NamedLabels, NamedLabels]]) -> list[ObjectScore]:
    """Return J and F of every object of one sequence, from truth and prediction of its frames, one at a time.

    LilaError, naming the file, for an empty first mask, sizes that differ and ids beyond the first mask's.
    """
    curves: list[tuple[list[float], list[float]]] = []
    n_frames = 0
    for (truth, truth_name), (prediction, prediction_name) in frames:
        if n_frames == 0:
            curves = [([], []) for _ in range(count_objects(without_void(truth), truth_name))]
        n_frames += 1
        if truth.shape != prediction.shape:
            expected, found = (f"{labels.shape[1]}×{labels.shape[0]}" for labels in (truth, prediction))
            raise LilaError(
                f"expected a prediction of the truth's size {expected} ({truth_name}), found {found} in "
                f"{prediction_name}; save predictions at the native size"
            )
        for labels, name in ((truth, truth_name), (prediction, prediction_name)):
            if (largest := int(without_void(labels).max())) > len(curves):
                raise LilaError(
                    f"expected ids up to {len(curves)}, the objects of the sequence's first mask, found {largest} in "
                    f"{name}; correct that mask"
                )
        for number, (region, boundary) in enumerate(curves, start=1):
            region.append(region_similarity(truth == number, prediction == number))
            boundary.append(boundary_accuracy(truth == number, prediction == number))
    require_frames(sequence, n_frames)
    return [
        ObjectScore(sequence, number, tuple(region[1:-1]), tuple(boundary[1:-1]))
        for number, (region, boundary) in enumerate(curves, start=1)
    ]


def region_similarity(truth: Mask, prediction: Mask) -> float:
    """Return J: intersection over union; 1 where both are empty."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def boundary_accuracy(truth: Mask, prediction: Mask) -> float:
    """Return F: harmonic mean of the shares of each boundary that lie within the tolerance of the other."""
    edges = boundary_map(truth), boundary_map(prediction)
    n_truth, n_prediction = (np.count_nonzero(edge) for edge in edges)
    if n_truth == 0 or n_prediction == 0:
        return float(n_truth == n_prediction)
    radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))  # 8 pixels at 480×854
    offset = np.arange(-radius, radius + 1)
    disk: UInt8[np.ndarray, "k k"] = (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.uint8)
    near_truth, near_prediction = (cv2.dilate(edge.astype(np.uint8), disk).astype(bool) for edge in edges)
    precision = np.count_nonzero(edges[1] & near_truth) / n_prediction
    recall = np.count_nonzero(edges[0] & near_prediction) / n_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_map(mask: Mask) -> Mask:
    """Return the pixels that differ from their east, south or south-east neighbor, where there is one."""
    edge = np.zeros_like(mask)
    east, south = mask[:, 1:] ^ mask[:, :-1], mask[1:] ^ mask[:-1]
    edge[:, :-1] |= east
    edge[:-1] |= south
    edge[:-1, :-1] |= mask[1:, 1:] ^ mask[:-1, :-1]
    return edge


def without_void(labels: AnyLabels) -> AnyLabels:
    """Return the labels with void (255) as background."""
    return np.where(labels == VOID, np.zeros_like(labels), labels)
