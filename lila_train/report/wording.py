"""Figures and names as the pages and tables of a report word them."""

from __future__ import annotations

MISSING = "missing"
"""In place of a figure that was not measured; never 0."""

NAMES = {"encoder": "frozen encoder", "lila": "LILA"}
"""By head: what it is called in a table."""


def percent(value: float | None) -> str:
    """A figure in per cent with one decimal; what was not measured is missing."""
    return MISSING if value is None else f"{100 * value:.1f}"


def signed(value: float) -> str:
    """One decimal and a sign, the minus a true one."""
    return f"{value:+.1f}".replace("-", "−")
