"""Numbers that describe what is in a store, from sums that add across clips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stores.ledger import COMPLETE
from stores.store import CueStore


@dataclass(frozen=True)
class Sums:
    """Of the finite values of an array: their number, sum, sum of squares, extremes; and how many are missing."""

    count: int = 0
    missing: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    @classmethod
    def of(cls, values: np.ndarray) -> Sums:
        """The sums of one array."""
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
        if not finite.size:
            return cls(missing=values.size)
        exact = finite.astype(np.float64)
        return cls(
            count=exact.size,
            missing=values.size - exact.size,
            total=float(exact.sum()),
            squares=float(np.square(exact).sum()),
            low=float(exact.min()),
            high=float(exact.max()),
        )

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.count + other.count,
            self.missing + other.missing,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @property
    def mean(self) -> float:
        """NaN where there is no value."""
        return self.total / self.count if self.count else float("nan")

    @property
    def deviation(self) -> float:
        """Standard deviation; NaN where there is no value."""
        if not self.count:
            return float("nan")
        return float(np.sqrt(max(0.0, self.squares / self.count - self.mean**2)))

    @property
    def missing_share(self) -> float:
        """Of all values."""
        return self.missing / max(1, self.missing + self.count)


def of_clips(store: CueStore, clips: Iterable[int]) -> dict[str, Sums]:
    """The sums of every array (scales left out) over some complete clips."""
    sums = {name: Sums() for name in store.arrays if not name.endswith("_scale")}
    for clip in clips:
        for name in sums:
            sums[name] += Sums.of(store.read(name, clip))
    return sums


def stored_bytes(store: CueStore, tasks: Iterable[int]) -> dict[str, float]:
    """Bytes per complete clip of each array, from the ledger records of some tasks."""
    totals, clips = dict.fromkeys(store.arrays, 0), 0
    for task in tasks:
        record = store.ledger.latest(task)
        if record is None:
            continue
        clips += sum(clip.status == COMPLETE for clip in record.clips)
        for name, size in record.shard_bytes.items():
            totals[name] += size
    return {name: total / max(1, clips) for name, total in totals.items()}
