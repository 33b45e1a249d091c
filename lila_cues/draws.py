"""Randomness as a function of position: who draws, and when, does not matter."""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np


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
