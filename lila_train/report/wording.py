"""Figures and names as the pages and tables of a report word them."""

from __future__ import annotations

from lila_train.evaluation.models import ENCODER, LilaModel

MISSING = "missing"
"""In place of a figure that was not measured; never 0."""

NAMES = {ENCODER: "frozen encoder", LilaModel.head: "LILA"}
"""By head: what it is called in a table."""


def title(head: str) -> str:
    """What a head is called above its picture."""
    return "Encoder" if head == ENCODER else NAMES.get(head, head)


def percent(value: float | None) -> str:
    """A figure in per cent with one decimal; what was not measured is missing."""
    return MISSING if value is None else f"{100 * value:.1f}"


def signed(value: float) -> str:
    """One decimal and a sign, the minus a true one."""
    return f"{value:+.1f}".replace("-", "−")
