"""The cues of one clip, as written to a store, and of one pair of frames, as read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = Any  # numpy, or a torch tensor


@dataclass(frozen=True)
class ClipCues:
    """All cues of one clip: F frames, P pairs, C channels. Missing values are NaN. Arrays, or tensors."""

    rgb: Array  # uint8 F y x 3
    depth: Array  # float32 F y x, relative inverse depth
    flow_forward: Array  # float32 P 2 y x, px of the cue grid, t → t+Δ; channel 0 is x, 1 is y
    flow_backward: Array  # float32 P 2 y x, t+Δ → t
    features: Array  # float32 F C y x, refined
    features_raw: Array  # float32 F C y x, the encoder's own grid
    feature_channels: Array  # int C, which channels of the encoder
    frame_index: Array  # int64 F, positions in the source
    frame_time: Array  # float64 F, s
    pair_frames: Array  # int P 2, which two of the F frames
    pair_gap: Array  # int P, Δ in source frames
    extra: Mapping[str, Array] = field(default_factory=dict)  # float32 F c y x, extra cues by name

    def __getitem__(self, name: str) -> Array:
        values: Array = self.extra[name] if name in self.extra else getattr(self, name)
        return values


@dataclass(frozen=True)
class PairCues:
    """The cues of two frames (t, t+Δ) of one clip; None where a cue was not requested.

    `CueStore.pair` returns floats as float32 with NaN where missing. `CueStore.stored_pair` returns values as stored
    (flow in fixed-point steps, features int8 with their scales), to be decoded on another device.
    """

    clip: int
    pair: int
    gap: int  # Δ in source frames
    frames: tuple[int, int]  # which two of the clip's frames
    rgb: np.ndarray | None = None  # uint8 2 y x 3
    depth: np.ndarray | None = None  # 2 y x
    flow_forward: np.ndarray | None = None  # 2 y x, px of the cue grid
    flow_backward: np.ndarray | None = None  # 2 y x
    features: np.ndarray | None = None  # 2 C y x
    features_raw: np.ndarray | None = None  # 2 C y x
    feature_channels: np.ndarray | None = None  # int32 C
    features_scale: np.ndarray | None = None  # float32 2 C, with stored features only
    features_raw_scale: np.ndarray | None = None  # float32 2 C, with stored features only
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)  # 2 c y x, extra cues by name

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an array by its name in the store; KeyError if it was not requested."""
        values: np.ndarray | None = self.extra.get(name, getattr(self, name, None))
        if values is None:
            raise KeyError(name)
        return values
