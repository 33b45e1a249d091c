"""Figures of the paper, for the rows beside ours: LILA (CVPR 2026, arXiv 2604.26488), second-hand from reading notes.

Fractions of 1, angles in degrees. They are always marked as published, with the protocol that they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "LILA, arXiv 2604.26488"


@dataclass(frozen=True)
class PaperResult:
    """One model's figures under one protocol."""

    protocol: str
    model: str
    figures: Mapping[str, float]


_DAVIS = {  # J&F by linear probe, by local k-NN
    "DINOv2-S14": (57.5, 65.1),
    "DINOv2-S14 + FeatUp": (60.5, 65.5),
    "DINOv2-S14 + LoftUp": (63.0, 66.0),
    "DINOv2-S14 + FlowFeat": (65.8, 67.6),
    "DINOv2-S14 + LILA": (68.6, 73.9),
    "DINOv2-B14": (61.6, 66.4),
    "DINOv2-B14 + FlowFeat": (65.7, 69.0),
    "DINOv2-B14 + LILA": (70.4, 74.2),
    "DINOv2-L14 + LILA (Kinetics)": (69.3, 74.9),
}
_NORMALS: dict[str, tuple[float, float | None]] = {  # RMSE in degrees, share under 11.25°
    "DINOv2-S14": (29.71, 26.91),
    "DINOv2-S14 + FlowFeat": (29.04, 27.89),
    "DINOv2-S14 + LILA": (28.53, 31.14),
    "DINOv2-B14": (26.56, None),
    "DINOv2-B14 + LILA": (25.71, None),
    "DINOv2-L14": (24.70, 39.89),
    "DINOv2-L14 + LILA (Kinetics)": (24.04, 40.89),
}
_COCO_STUFF: dict[str, tuple[float, float | None]] = {  # mIoU, pixel accuracy
    "DINOv2-S14": (56.6, 77.2),
    "DINOv2-S14 + FlowFeat": (58.0, 78.7),
    "DINOv2-S14 + LILA": (59.6, 79.8),
    "DINOv2-B14": (58.5, None),
    "DINOv2-B14 + LILA": (62.4, None),
    "DINOv2-L14": (58.7, 78.1),
    "DINOv2-L14 + LILA (Kinetics)": (63.3, 81.4),
}


def paper_results(task: str) -> list[PaperResult]:
    """The rows of a task: the part of a protocol's id before the @."""
    return [row for row in _all() if row.protocol.split("@")[0] == task]


def _all() -> list[PaperResult]:
    rows = [PaperResult("davis-lp@lila", model, {"JF": probe / 100}) for model, (probe, _) in _DAVIS.items()]
    rows += [PaperResult("davis-knn@lila", model, {"JF": knn / 100}) for model, (_, knn) in _DAVIS.items()]
    for model, (rmse_deg, under) in _NORMALS.items():
        share = {} if under is None else {"under_11.25": under / 100}
        rows.append(PaperResult("nyuv2-normals@lila", model, {"rmse_deg": rmse_deg, **share}))
    for model, (miou, accuracy) in _COCO_STUFF.items():
        share = {} if accuracy is None else {"pixel_accuracy": accuracy / 100}
        rows.append(PaperResult("cocostuff27@lila", model, {"miou": miou / 100, **share}))
    return rows
