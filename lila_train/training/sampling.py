"""Which pair, which regions, which channels: a function of (seed, step, slot), so that no run has sampler state.

A step's batch is the same however it is shared out over ranks and loader processes, and a run resumed at step N goes on
as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stores.errors import LilaError

_TRIES = 100


@dataclass(frozen=True)
class ViewRanges:
    """How two views are drawn; area fractions are of the base crop's largest square (docs/method.md, "Cues")."""

    context_area: tuple[float, float] = (0.8, 0.8)
    query_area: tuple[float, float] = (0.3, 1.0)
    base_hflip: float = 0.5
    query_hflip: float = 0.5
    same_region: bool = False

    def check(self) -> None:
        """Refuse ranges that are none."""
        for name in ("context_area", "query_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise LilaError(f"{name} must be two area fractions, 0 < low ≤ high ≤ 1, found {low:g},{high:g}")
        for name in ("base_hflip", "query_hflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise LilaError(f"{name} must be a probability, found {getattr(self, name):g}")


@dataclass(frozen=True)
class Box:
    """A square of the base crop in its pixels; mirrored after cutting."""

    top: int
    left: int
    side: int
    mirrored: bool


@dataclass(frozen=True)
class Draw:
    """One element of a batch: which pair of which clip, seen through which two boxes, told by which stored channels."""

    clip: int
    pair: int
    context: Box
    query: Box
    stored_channels: tuple[int, ...]  # positions among the channels to draw from, ascending


def generator(seed: int, step: int, slot: int) -> np.random.Generator:
    """The random numbers of one element of one step's batch."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, step, slot]))


@dataclass(frozen=True)
class PairPool:
    """The pairs to draw from: complete clips, and the gaps Δ in source frames of each one's pairs."""

    clips: np.ndarray
    gaps_of: Callable[[int], np.ndarray]
    max_gap: int

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """A clip, uniformly; then one of its pairs at most `max_gap` apart. A clip that has none is drawn again."""
        if not len(self.clips):
            raise LilaError("the store holds no complete clip to train on; build it first: lila-cues build")
        for _ in range(_TRIES):
            clip = int(self.clips[rng.integers(len(self.clips))])
            eligible = np.flatnonzero(self.gaps_of(clip) <= self.max_gap)
            if len(eligible):
                return clip, int(eligible[rng.integers(len(eligible))])
        raise LilaError(
            f"expected pairs at most {self.max_gap} frames apart, found none in {_TRIES} clips drawn; raise --max-gap"
        )


def draw(
    rng: np.random.Generator, pool: PairPool, ranges: ViewRanges, base: tuple[int, int], stored: int, kept: int
) -> Draw:
    """One element: `kept` of the `stored` channels, two boxes inside a base crop of `base` = (y, x) pixels.

    Both boxes share the base's mirror; the query has one of its own on top, so the two views mirror independently.
    """
    clip, pair = pool.draw(rng)
    base_hflip = bool(rng.random() < ranges.base_hflip)
    query_hflip = bool(rng.random() < ranges.query_hflip)
    context = draw_box(rng, base, ranges.context_area, base_hflip)
    query = draw_box(rng, base, ranges.query_area, base_hflip != query_hflip)
    if ranges.same_region:
        query = context
    channels = tuple(int(c) for c in np.sort(rng.permutation(stored)[:kept]))
    return Draw(clip, pair, context, query, channels)


def draw_box(rng: np.random.Generator, base: tuple[int, int], area: tuple[float, float], mirrored: bool) -> Box:
    """A square of an area fraction drawn from `area`, placed uniformly inside the base crop."""
    fraction = rng.uniform(*area) if area[0] < area[1] else area[0]
    side = max(1, min(min(base), round(math.sqrt(fraction) * min(base))))
    top, left = rng.integers(base[0] - side + 1), rng.integers(base[1] - side + 1)
    return Box(int(top), int(left), side, mirrored)
