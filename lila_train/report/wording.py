"""Figures and names as the pages and tables of a report word them."""

from __future__ import annotations

from dataclasses import dataclass

from lila_train.evaluation.models import ENCODER, LilaModel

MISSING = "missing"
"""In place of a figure that was not measured; never 0."""

NAMES = {ENCODER: "frozen encoder", LilaModel.head: "LILA"}
"""By head: what it is called in a table."""


@dataclass(frozen=True)
class Metric:
    """How a figure is shown: its heading, and what it is multiplied by."""

    heading: str
    scale: float = 100.0
    digits: int = 1


METRICS = {
    "JF": Metric("J&F"),
    "J": Metric("J"),
    "F": Metric("F"),
    "J_recall": Metric("J recall"),
    "J_decay": Metric("J decay"),
    "F_recall": Metric("F recall"),
    "F_decay": Metric("F decay"),
    "rmse_deg": Metric("RMSE °", 1.0, 2),
    "under_11.25": Metric("< 11.25°"),
    "under_22.5": Metric("< 22.5°"),
    "under_30": Metric("< 30°"),
    "miou": Metric("mIoU"),
    "pixel_accuracy": Metric("pixel accuracy"),
    "miou_seen": Metric("mIoU seen"),
    "miou_unseen": Metric("mIoU unseen"),
    "miou_harmonic": Metric("harmonic"),
    "absent_classes": Metric("classes absent", 1.0, 0),
}
"""By name in a result: the heading, and what makes per cent of a fraction; degrees and counts stay as they are."""


def title(head: str) -> str:
    """What a head is called above its picture."""
    return "Encoder" if head == ENCODER else NAMES.get(head, head)


def percent(value: float | None) -> str:
    """A figure in per cent with one decimal; what was not measured is missing."""
    return MISSING if value is None else f"{100 * value:.1f}"


def signed(value: float) -> str:
    """One decimal and a sign, the minus a true one."""
    return f"{value:+.1f}".replace("-", "−")


def shown(name: str, value: float | None) -> str:
    """A figure as text, in per cent, degrees or as a count by its name; what was not measured is missing, never 0."""
    found = metric(name)
    return MISSING if value is None else f"{found.scale * value:.{found.digits}f}"


def metric(name: str) -> Metric:
    """How the figure of that name is shown; as it is, with three digits, where the name is not known."""
    return METRICS.get(name, Metric(name, 1.0, 3))
