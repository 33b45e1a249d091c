"""Randomness as a function of position: who draws, and when, does not matter.

Which frames of a clip are kept, and which pairs of them: a pure function of the seed, the clip and its length.

A = F − P anchor frames are spread over the clip, and each is paired with G = P/A later frames at gaps Δ in {1..T}.
Gaps are dealt so that over a clip every Δ occurs equally often, give or take one (docs/method.md: Δ uniform).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Int64

from stores.errors import LilaError


class Draw(IntEnum):
    """What is drawn for a clip; each has a stream of its own."""

    FRAMES = 0
    CHANNELS = 1


def generator(seed: int, clip_id: str, draw: Draw) -> np.random.Generator:
    """The random numbers for that purpose in that clip, whatever machine, order or worker asks."""
    clip_key = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "little")
    philox = np.random.Philox(key=np.array([seed, clip_key], np.uint64), counter=np.array([0, 0, 0, draw], np.uint64))
    return np.random.Generator(philox)


def channels(seed: int, clip_id: str, width: int, kept: int) -> np.ndarray:
    """Which `kept` of an encoder's `width` channels a clip keeps: int32, ascending, drawn without repeats."""
    drawn = generator(seed, clip_id, Draw.CHANNELS).permutation(width)[:kept]
    return np.sort(drawn).astype(np.int32)


@dataclass(frozen=True)
class FrameChoice:
    """What is kept of one clip: F frames, P pairs."""

    frame_index: Int64[np.ndarray, " frames"]
    """Positions in the source, ascending; in a clip shorter than F some stand twice."""
    pair_frames: Int64[np.ndarray, "pairs 2"]
    """The earlier and the later frame of each pair, as positions in `frame_index`."""
    pair_gap: Int64[np.ndarray, " pairs"]
    """Δ in source frames."""


def anchors_and_gaps(frames: int, pairs: int) -> tuple[int, int]:
    """A and G of the F frames and P pairs kept per clip; a `LilaError` if they do not fit together."""
    anchors = frames - pairs
    if anchors < 1 or pairs < 1 or pairs % anchors:
        raise LilaError(
            f"expected frames = anchors · (1 + gaps) and pairs = anchors · gaps, found {frames} frames and {pairs} "
            "pairs per clip; choose for example 16 frames and 12 pairs (4 anchors, 3 gaps each)"
        )
    return anchors, pairs // anchors


def choose_frames(seed: int, clip_id: str, length: int, frames: int, pairs: int, max_gap: int = 5) -> FrameChoice:
    """The frames and pairs of a clip of `length` frames; `max_gap` is T. One frame makes no pair: a `LilaError`."""
    anchors, gaps_each = anchors_and_gaps(frames, pairs)
    if length < 2:
        raise LilaError(f"expected a clip of two frames or more, found {length} in {clip_id}; take it out")
    draw = generator(seed, clip_id, Draw.FRAMES)
    gaps = deal_gaps(draw, anchors, gaps_each, min(max_gap, length - 1))
    first = place_anchors(draw, gaps.max(axis=1), length)
    positions = np.concatenate([first[:, None], first[:, None] + gaps], axis=1)  # anchor, (itself, its G partners)
    order = np.argsort(positions, axis=None, kind="stable")
    ranks = np.empty(order.size, np.int64)
    ranks[order] = np.arange(order.size)
    rank = ranks.reshape(positions.shape)
    pair_frames = np.stack([np.repeat(rank[:, 0], gaps_each), rank[:, 1:].ravel()], axis=1)
    return FrameChoice(positions.ravel()[order], pair_frames, gaps.ravel())


def deal_gaps(draw: np.random.Generator, anchors: int, each: int, max_gap: int) -> np.ndarray:
    """Gaps in {1..max_gap}: int64 anchors × each, ascending per anchor.

    Every anchor takes the gaps that were dealt least so far, ties by lot: no gap is ever two ahead of another, and an
    anchor repeats a gap only if it takes more than there are.
    """
    dealt = np.zeros(max_gap, np.int64)
    rows = np.empty((anchors, each), np.int64)
    for row in rows:
        for start in range(0, each, max_gap):
            take = min(max_gap, each - start)
            least = np.lexsort((draw.random(max_gap), dealt))[:take]
            dealt[least] += 1
            row[start : start + take] = least + 1
    return np.sort(rows, axis=1)


def place_anchors(draw: np.random.Generator, reach: np.ndarray, length: int) -> np.ndarray:
    """One anchor at random in each equal part of the clip, int64 ascending.

    Where the parts are long enough, an anchor and its partners (up to `reach` frames later) stay within their part, so
    that no frame is kept twice; else only within the clip.
    """
    edges = np.linspace(0, length, len(reach) + 1).astype(np.int64)
    lowest, highest = edges[:-1], edges[1:] - 1 - reach
    lowest = np.minimum(lowest, length - 1 - reach)
    highest = np.maximum(highest, lowest)
    return lowest + np.floor(draw.random(len(reach)) * (highest - lowest + 1)).astype(np.int64)
