"""Selected frames of a clip, of a video or a folder of images; kept apart from PyAV, which images do not need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Select = Callable[[int], Sequence[int] | np.ndarray]
"""Returns positions of frames, given their number; they may repeat and come in any order."""
Keep = Callable[[np.ndarray], np.ndarray]
"""Receives a selected frame (uint8 y x 3, upright RGB) when it is decoded; the result is what stays in memory."""


@dataclass(frozen=True)
class DecodedClip:
    """The selected frames of a clip, in the order of their selection."""

    n_frames: int  # of the complete clip
    size: tuple[int, int]  # height and width of an upright frame
    names: list[str]  # by which files beside the clip refer to a frame, without suffix
    times: Float64[np.ndarray, " f"]  # seconds from the start of the clip
    frames: np.ndarray  # f y x 3, as `keep` returned them


def selected(select: Select, n_frames: int) -> list[int]:
    """Return the selected positions. IndexError for none, or for one outside the clip."""
    indices = np.asarray(select(n_frames), np.int64)
    if indices.size == 0 or indices.min() < 0 or indices.max() >= n_frames:
        raise IndexError(f"expected frames of a clip that has frames 0 to {n_frames - 1}, found {indices.tolist()}")
    return list(indices.tolist())
