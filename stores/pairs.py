"""The cues of one pair of frames, as stored and decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stores.arrays import CUES, ArraySpec
from stores.cues import PairCues
from stores.encodings import Rows
from stores.errors import StoreError
from stores.reader import ShardReader


def read_stored(reader: ShardReader, clip: int, pair: int, cues: Sequence[str]) -> PairCues:
    """The named cues of a pair in the types of the store."""
    frames = reader.read("pair_frames", clip, [0])[0][pair].tolist()
    gap = int(reader.read("pair_gap", clip, [0])[0][pair])
    values: dict[str, np.ndarray] = {}
    for name in cues:
        if name not in CUES:
            raise StoreError(f"{name!r} is no cue of a pair; take some of {', '.join(CUES)}")
        flow = name.startswith("flow_")
        stored = reader.read(name, clip, [pair] if flow else frames)
        values[name] = stored[0] if flow else stored
        if isinstance(reader.arrays[name].encoding, Rows):
            values[f"{name}_scale"] = reader.read(f"{name}_scale", clip, [0])[0][frames]
    if any(name.startswith("features") for name in cues):
        values["feature_channels"] = reader.read("feature_channels", clip, [0])[0]
    return PairCues(clip=clip, pair=pair, gap=gap, frames=(frames[0], frames[1]), **values)


def decode(arrays: Mapping[str, ArraySpec], stored: PairCues) -> PairCues:
    """The pair with every cue as float32 (rgb as uint8), NaN where missing."""
    decoded: dict[str, np.ndarray] = {}
    for name in CUES:
        value, encoding = getattr(stored, name), arrays[name].encoding
        if value is None:
            continue
        if isinstance(encoding, Rows):
            decoded[name] = encoding.decode(value, getattr(stored, f"{name}_scale"))
        else:
            decoded[name] = encoding.decode(value)
    return PairCues(
        clip=stored.clip,
        pair=stored.pair,
        gap=stored.gap,
        frames=stored.frames,
        feature_channels=stored.feature_channels,
        **decoded,
    )
