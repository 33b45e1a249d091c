"""The cues of one pair of frames, as stored and decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stores.arrays import STANDARD_CUES, ArraySpec
from stores.cues import PairCues
from stores.encodings import Rows
from stores.errors import StoreError
from stores.reader import ShardReader


def read_stored(
    reader: ShardReader, clip: int, pair: int, cues: Sequence[str], channels: Sequence[int] | None
) -> PairCues:
    """The named cues of a pair in the types of the store; of the encoder's channels, those at these positions."""
    frames = reader.read("pair_frames", clip, [0])[0][pair].tolist()
    gap = int(reader.read("pair_gap", clip, [0])[0][pair])
    kept = slice(None) if channels is None else list(channels)
    values: dict[str, np.ndarray] = {}
    for name in cues:
        spec = _cue(reader.arrays, name)
        of_pair = spec.dimensions[0] == "pair"
        stored = reader.read(name, clip, [pair] if of_pair else frames)
        values[name] = stored[0] if of_pair else stored[:, kept] if "channel" in spec.dimensions else stored
        if isinstance(spec.encoding, Rows):
            values[f"{name}_scale"] = reader.read(f"{name}_scale", clip, [0])[0][frames][:, kept]
    if any("channel" in reader.arrays[name].dimensions for name in cues):
        values["feature_channels"] = reader.read("feature_channels", clip, [0])[0][kept]
    extra = {name: values.pop(name) for name in cues if name not in STANDARD_CUES}
    return PairCues(clip=clip, pair=pair, gap=gap, frames=(frames[0], frames[1]), extra=extra, **values)


def decode(arrays: Mapping[str, ArraySpec], stored: PairCues, cues: Sequence[str]) -> PairCues:
    """The pair with those cues, which it has, as float32 (rgb as uint8), NaN where missing; without their scales."""
    decoded: dict[str, Any] = {}
    for name in cues:
        encoding = arrays[name].encoding
        if isinstance(encoding, Rows):
            decoded[name] = encoding.decode(stored[name], stored[f"{name}_scale"])
        else:
            decoded[name] = encoding.decode(stored[name])
    extra = {name: decoded.pop(name) for name in stored.extra}
    return replace(stored, features_scale=None, features_raw_scale=None, extra=extra, **decoded)


def _cue(arrays: Mapping[str, ArraySpec], name: str) -> ArraySpec:
    cues = [cue for cue, spec in arrays.items() if spec.split]
    if name not in cues:
        raise StoreError(f"{name!r} is no cue of a pair; take some of {', '.join(cues)}")
    return arrays[name]
