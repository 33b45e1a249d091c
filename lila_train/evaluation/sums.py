"""Figures kept as sums, so that they add across batches, ranks and days; one division at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


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
