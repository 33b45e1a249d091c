"""Sampling of training pairs: clip, pair, regions and channels, each a function of (seed, step, slot).

A run has no sampler state: a batch is the same however it is split over ranks and loader processes, and a run resumed
at step N samples what it would have sampled without the interruption.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lila_train.training.config import TrainConfig
from stores.errors import LilaError

_MAX_TRIES = 100
LARGE_STORE = 10_000  # clips; above it, shuffle=auto is blocks
WINDOW_SHARDS = 256  # 4,096 clips of a store with 16 a shard
DRAWS_PER_CLIP = 4  # on average, while its shard is in the window: how often an open shard is read again


@dataclass(frozen=True)
class Box:
    """A square of the base crop, in its pixels."""

    top: int
    left: int
    side: int
    hflip: bool = False


@dataclass(frozen=True)
class PairSample:
    """One element of a batch.

    channels: positions among the channels to draw from, ascending. base_hflip: flips both views; a view that has its
    own flip as well is not flipped.
    """

    clip: int
    pair: int
    context: Box
    query: Box
    base_hflip: bool
    channels: tuple[int, ...]


@dataclass(frozen=True)
class PairPool:
    """The pairs to draw from: complete clips, and each one's gaps Δ in source frames by pair."""

    clips: np.ndarray
    gaps_of: Callable[[int], np.ndarray]
    max_gap: int

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return a clip, uniformly, and one of its pairs at most `max_gap` apart; a clip without one is redrawn."""
        for _ in range(_MAX_TRIES):
            clip = int(self.clips[rng.integers(len(self.clips))])
            eligible = np.flatnonzero(self.gaps_of(clip) <= self.max_gap)
            if len(eligible):
                return clip, int(eligible[rng.integers(len(eligible))])
        raise LilaError(
            f"expected pairs at most {self.max_gap} frames apart, found none in {_MAX_TRIES} clips drawn; "
            "raise --set max_gap"
        )


def window_steps(config: TrainConfig, shard_clips: int) -> int:
    """Return the number of steps for which one window of shards is drawn from, with shuffle=blocks."""
    return max(1, WINDOW_SHARDS * shard_clips * DRAWS_PER_CLIP // config.batch_size)


def window_clips(clips: np.ndarray, config: TrainConfig, shard_clips: int, window: int) -> np.ndarray:
    """Return the clips that a window of steps draws from: all of them, or with shuffle=blocks those of some shards.

    Windows divide all shards, in an order drawn anew for each pass over them, into equal parts of up to WINDOW_SHARDS.
    """
    if config.shuffle == "uniform" or (config.shuffle == "auto" and len(clips) <= LARGE_STORE):
        return clips
    shards = np.unique(clips // shard_clips)
    n_windows = max(1, math.ceil(len(shards) / WINDOW_SHARDS))
    turn, number = divmod(window, n_windows)
    rng = np.random.Generator(np.random.Philox(key=config.seed, counter=[0, 1, turn, 0]))  # not that of an element
    return clips[np.isin(clips // shard_clips, np.array_split(rng.permutation(shards), n_windows)[number])]


def generator(seed: int, step: int, slot: int) -> np.random.Generator:
    """Return the random numbers of one element of one step's batch."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, step, slot]))


def draw_sample(
    rng: np.random.Generator, pool: PairPool, config: TrainConfig, base: tuple[int, int], stored_channels: int
) -> PairSample:
    """Draw one element: `config.channels` of the stored channels, two boxes in a base crop of (y, x) pixels."""
    clip, pair = pool.draw(rng)
    base_hflip = bool(rng.random() < config.base_hflip)
    query_hflip = bool(rng.random() < config.query_hflip)
    context = draw_box(rng, base, config.context_area)
    query = draw_box(rng, base, config.query_area, query_hflip)
    if config.same_region:
        query = context
    channels = tuple(int(c) for c in np.sort(rng.permutation(stored_channels)[: config.channels]))
    return PairSample(clip, pair, context, query, base_hflip, channels)


def draw_box(rng: np.random.Generator, base: tuple[int, int], area: tuple[float, float], hflip: bool = False) -> Box:
    """Draw a square of an area fraction in `area`, placed uniformly inside the base crop."""
    fraction = rng.uniform(*area) if area[0] < area[1] else area[0]
    side = max(1, min(min(base), round(math.sqrt(fraction) * min(base))))
    top, left = rng.integers(base[0] - side + 1), rng.integers(base[1] - side + 1)
    return Box(int(top), int(left), side, hflip)
