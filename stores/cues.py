"""What travels: the cues of one clip into a store, and those of one pair of frames out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from stores.errors import StoreError
from stores.spec import ArraySpec


@dataclass(frozen=True)
class ClipCues:
    """All cues of one clip: F frames, P pairs, C channels. Unknown values are NaN."""

    rgb: np.ndarray  # uint8 F y x 3
    depth: np.ndarray  # float32 F y x, relative inverse depth
    flow_forward: np.ndarray  # float32 P 2 y x, px of the cue grid, t → t+Δ; channel 0 is x, 1 is y
    flow_backward: np.ndarray  # float32 P 2 y x, t+Δ → t
    features: np.ndarray  # float32 F C y x, refined
    features_raw: np.ndarray  # float32 F C y x, the encoder's own grid
    feature_channels: np.ndarray  # int C, which channels of the encoder
    frame_index: np.ndarray  # int64 F, positions in the source
    frame_time: np.ndarray  # float64 F, s
    pair_frames: np.ndarray  # int P 2, which two of the F frames
    pair_gap: np.ndarray  # int P, Δ in source frames
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)  # float32 F c y x, extra cues by name

    def __getitem__(self, name: str) -> np.ndarray:
        """An array by its name in the store."""
        found: np.ndarray = self.extra[name] if name in self.extra else getattr(self, name)
        return found


@dataclass(frozen=True)
class PairCues:
    """The cues of two frames (t, t+Δ) of one clip; None where a cue was not asked for.

    As `CueStore.pair` gives them, floats are float32 with NaN where missing. As `CueStore.stored_pair` gives them,
    they are as stored (flow in steps, features int8 with their scales 2 C), for who decodes on another device.
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
    features_raw_scale: np.ndarray | None = None
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)  # 2 c y x, extra cues by name

    def __getitem__(self, name: str) -> np.ndarray:
        """An array by its name in the store; KeyError where it was not asked for."""
        found: np.ndarray | None = self.extra.get(name, getattr(self, name, None))
        if found is None:
            raise KeyError(name)
        return found


def check_shape(clip_id: str, array: ArraySpec, values: np.ndarray) -> None:
    """Refuse cues of another shape than the store declares."""
    if values.shape != array.shape:
        axes = " ".join(array.dimensions)
        raise StoreError(
            f"{array.name} of clip {clip_id} has shape {values.shape}, but this store keeps {array.shape} ({axes}); "
            "build into a store that was created for these sizes"
        )
