"""Which frames, pairs and channels of a clip are stored: pure functions of the seed, the clip and its length.

A = F − P anchor frames are spread over the clip, and each is paired with G = P/A later frames at gaps Δ in {1..T}.
Gaps are balanced: over a clip, two gaps differ by at most one in how often they occur (docs/method.md: Δ uniform).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Int64

from stores.errors import LilaError


class Stream(IntEnum):
    """Independent random streams of one clip."""

    FRAMES = 0
    CHANNELS = 1


@dataclass(frozen=True)
class FrameSelection:
    """The F frames and P pairs that are stored of one clip."""

    frame_index: Int64[np.ndarray, " frames"]  # positions in the source, ascending; a clip shorter than F repeats some
    pair_frames: Int64[np.ndarray, "pairs 2"]  # the earlier and the later frame, as positions in `frame_index`
    pair_gap: Int64[np.ndarray, " pairs"]  # Δ in source frames


def select_frames(seed: int, clip_id: str, length: int, frames: int, pairs: int, max_gap: int) -> FrameSelection:
    """Select frames and pairs of a clip of `length` frames; `max_gap` is T. LilaError for fewer than two frames."""
    anchors, gaps_each = anchors_and_gaps(frames, pairs)
    if length < 2:
        raise LilaError(
            f"expected a clip of two frames or more, found {length} in {clip_id}; remove it from the data set"
        )
    random = rng(seed, clip_id, Stream.FRAMES)
    gaps = _balanced_gaps(random, anchors, gaps_each, min(max_gap, length - 1))
    # One random anchor in each equal part of the clip. Where the parts are long enough, an anchor and its partners stay
    # within their part, so that no frame is stored twice; otherwise only within the clip.
    reach = gaps.max(axis=1)
    edges = np.linspace(0, length, anchors + 1).astype(np.int64)
    low = np.minimum(edges[:-1], length - 1 - reach)
    high = np.maximum(edges[1:] - 1 - reach, low)
    first = low + np.floor(random.random(anchors) * (high - low + 1)).astype(np.int64)
    positions = np.concatenate([first[:, None], first[:, None] + gaps], axis=1)  # anchor × (itself, its G partners)
    order = np.argsort(positions, axis=None, kind="stable")
    rank = np.argsort(order).reshape(positions.shape)
    pair_frames = np.stack([np.repeat(rank[:, 0], gaps_each), rank[:, 1:].ravel()], axis=1)
    return FrameSelection(positions.ravel()[order], pair_frames, gaps.ravel())


def select_channels(seed: int, clip_id: str, width: int, count: int) -> np.ndarray:
    """Return `count` of an encoder's `width` channels, drawn without replacement: int32, ascending."""
    drawn = rng(seed, clip_id, Stream.CHANNELS).permutation(width)[:count]
    return np.sort(drawn).astype(np.int32)


def anchors_and_gaps(frames: int, pairs: int) -> tuple[int, int]:
    """Return A and G for F frames and P pairs per clip. LilaError if they do not fit together."""
    anchors = frames - pairs
    if anchors < 1 or pairs < 1 or pairs % anchors:
        raise LilaError(
            f"expected frames = anchors · (1 + gaps) and pairs = anchors · gaps, found {frames} frames and {pairs} "
            "pairs per clip; choose for example 16 frames and 12 pairs (4 anchors, 3 gaps each)"
        )
    return anchors, pairs // anchors


def rng(seed: int, clip_id: str, stream: Stream) -> np.random.Generator:
    """Return the generator of one stream of a clip; it depends on no machine, order or worker."""
    clip_key = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8], "little")
    philox = np.random.Philox(key=np.array([seed, clip_key], np.uint64), counter=np.array([0, 0, 0, stream], np.uint64))
    return np.random.Generator(philox)


def _balanced_gaps(random: np.random.Generator, anchors: int, each: int, max_gap: int) -> np.ndarray:
    """Return gaps in {1..max_gap}: int64 anchors × each, ascending per anchor.

    Every anchor takes the least used gaps, ties at random: no gap is ever two ahead of another, and an anchor repeats
    a gap only if it takes more than there are.
    """
    used = np.zeros(max_gap, np.int64)
    rows = np.empty((anchors, each), np.int64)
    for row in rows:
        for start in range(0, each, max_gap):
            take = min(max_gap, each - start)
            least = np.lexsort((random.random(max_gap), used))[:take]
            used[least] += 1
            row[start : start + take] = least + 1
    return np.sort(rows, axis=1)
