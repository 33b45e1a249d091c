"""Region similarity J and boundary accuracy F of label sequences, as the official DAVIS-2017 scorer defines them.

Semi-supervised setting: the objects are those of the first truth mask, the first and the last frame are not scored,
and void (255) is background. Figures are fractions, not per cent. Source: davisvideochallenge/davis2017-evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Integer, UInt8

from lila_train.evaluation.dense.metrics import Mean, Tally
from stores.errors import LilaError

VOID = 255
TOLERANCE = 0.008  # of the image's diagonal
RECALL_ABOVE = 0.5
DECAY_BINS = 4
FIGURES = ("mean", "recall", "decay")

Mask = Bool[np.ndarray, "h w"]
AnyLabels = Integer[np.ndarray, "h w"]


@dataclass(frozen=True)
class LabelPair:
    """Truth and prediction of one frame (0 = background, n = object n), and what to call the two in messages."""

    truth: Integer[np.ndarray, "h w"]
    prediction: Integer[np.ndarray, "y x"]
    truth_name: str
    prediction_name: str


@dataclass(frozen=True)
class Statistics:
    """What the official tables print of one curve: mean, share of frames strictly above ½, first minus last quarter."""

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True)
class ObjectScore:
    """J and F of one object in every scored frame (all but the first and the last), in frame order."""

    sequence: str
    object_id: int
    region: tuple[float, ...]
    boundary: tuple[float, ...]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ObjectScore:
        """An object of an evaluation's record, as `dataclasses.asdict` wrote it and JSON gives it back."""
        return cls(entry["sequence"], entry["object_id"], tuple(entry["region"]), tuple(entry["boundary"]))


def tally(scores: Iterable[ObjectScore]) -> Tally:
    """Sums over objects, each of weight 1 whatever the length of its sequence."""
    sums = Tally()
    for score in scores:
        curves = {"J": statistics(score.region), "F": statistics(score.boundary)}
        sums += Tally(
            {f"{key}_{name}": Mean.of([getattr(curve, name)]) for key, curve in curves.items() for name in FIGURES}
        )
    return sums


def figures(sums: Tally) -> dict[str, float | None]:
    """The dataset's figures, as fractions: J, F, their mean JF, then recall and decay of both; None if not measured."""
    j, f = sums.figure("J_mean"), sums.figure("F_mean")
    joint = None if j is None or f is None else (j + f) / 2
    others = {name: sums.figure(name) for name in ("J_recall", "J_decay", "F_recall", "F_decay")}
    return {"J": j, "F": f, "JF": joint, **others}


def statistics(values: Sequence[float]) -> Statistics:
    """Mean, recall and decay of a per-frame curve of at least one value; the quarters overlap by one frame."""
    curve = np.asarray(values, dtype=np.float64)
    edges = (np.round(np.linspace(1, len(curve), DECAY_BINS + 1) + 1e-10) - 1).astype(int)
    first, last = curve[edges[0] : edges[1] + 1], curve[edges[-2] : edges[-1] + 1]
    return Statistics(
        float(curve.mean()), float((curve > RECALL_ABOVE).mean()), float(first.mean()) - float(last.mean())
    )


def tolerance_px(height: int, width: int) -> int:
    """How far two boundaries may lie apart and still match, in pixels: 8 at 480×854."""
    return math.ceil(TOLERANCE * math.hypot(height, width))


def boundary_map(mask: Mask) -> Mask:
    """Pixels that differ from their east, south or south-east neighbour, where there is one."""
    edge = np.zeros_like(mask)
    east, south = mask[:, 1:] ^ mask[:, :-1], mask[1:] ^ mask[:-1]
    edge[:, :-1] |= east
    edge[:-1] |= south
    edge[:-1, :-1] |= mask[1:, 1:] ^ mask[:-1, :-1]
    return edge


def region_similarity(truth: Mask, prediction: Mask) -> float:
    """J: intersection over union; 1 where both are empty."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def boundary_accuracy(truth: Mask, prediction: Mask) -> float:
    """F: harmonic mean of the shares of each boundary that lie within the tolerance of the other."""
    edges = boundary_map(truth), boundary_map(prediction)
    n_truth, n_prediction = (np.count_nonzero(edge) for edge in edges)
    if n_truth == 0 or n_prediction == 0:
        return float(n_truth == n_prediction)
    near_truth, near_prediction = (_dilated(edge, tolerance_px(*truth.shape)) for edge in edges)
    precision = np.count_nonzero(edges[1] & near_truth) / n_prediction
    recall = np.count_nonzero(edges[0] & near_prediction) / n_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score_sequence(sequence: str, frames: Iterable[LabelPair]) -> list[ObjectScore]:
    """J and F of every object of one sequence, from its frames in order; a frame at a time is held in memory.

    Raises LilaError, naming the file, for an empty first mask, sizes that differ and ids beyond the first mask's.
    """
    curves: list[tuple[list[float], list[float]]] | None = None
    for pair in frames:
        if curves is None:
            curves = [([], []) for _ in range(_count_objects(pair))]
        _check(pair, len(curves))
        for number, (region, boundary) in enumerate(curves, start=1):
            truth, prediction = pair.truth == number, pair.prediction == number
            region.append(region_similarity(truth, prediction))
            boundary.append(boundary_accuracy(truth, prediction))
    scored = curves or []
    if not scored or len(scored[0][0]) < 3:
        raise LilaError(
            f"expected at least 3 frames to score in sequence {sequence} (the first and the last are not scored), "
            f"found {len(scored[0][0]) if scored else 0}; add frames or take the sequence off the list"
        )
    return [
        ObjectScore(sequence, number, tuple(region[1:-1]), tuple(boundary[1:-1]))
        for number, (region, boundary) in enumerate(scored, start=1)
    ]


def without_void(labels: AnyLabels) -> AnyLabels:
    """The labels with void (255) as background."""
    return np.where(labels == VOID, np.zeros_like(labels), labels)


def _count_objects(first: LabelPair) -> int:
    count = int(without_void(first.truth).max())
    if count == 0:
        raise LilaError(
            f"expected at least one object in the first mask {first.truth_name}, found none; "
            "annotate the objects to follow there, or take the sequence off the list"
        )
    return count


def _check(pair: LabelPair, n_objects: int) -> None:
    if pair.truth.shape != pair.prediction.shape:
        raise LilaError(
            f"expected a prediction of the truth's size {_size(pair.truth)} ({pair.truth_name}), found "
            f"{_size(pair.prediction)} in {pair.prediction_name}; save predictions at the native size"
        )
    for labels, name in ((without_void(pair.truth), pair.truth_name), (pair.prediction, pair.prediction_name)):
        if (largest := int(labels.max())) > n_objects:
            raise LilaError(
                f"expected ids up to {n_objects}, the objects of the sequence's first mask, found {largest} in {name}; "
                "correct that mask"
            )


def _size(labels: AnyLabels) -> str:
    return f"{labels.shape[1]}×{labels.shape[0]}"


def _dilated(edge: Mask, radius: int) -> Mask:
    offset = np.arange(-radius, radius + 1)
    disk: UInt8[np.ndarray, "k k"] = (offset[:, None] ** 2 + offset**2 <= radius**2).astype(np.uint8)
    return cv2.dilate(edge.astype(np.uint8), disk).astype(bool)
