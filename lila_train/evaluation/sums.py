"""Figures kept as sums, so that they add across batches, ranks and days; one division at the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """A sum and how many values went into it; `Mean() + Mean.of([…])` is how a mean over parts is taken."""

    total: float = 0.0
    weight: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean:
        """The mean of `values`, each of weight 1."""
        listed = [float(value) for value in values]
        return cls(sum(listed), float(len(listed)))

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> float | None:
        """The mean, or None where nothing was measured: a missing figure is missing, not 0."""
        return self.total / self.weight if self.weight else None
