"""From a clip's id to the frames the networks see: chosen, decoded, cropped. Runs ahead of the networks, in threads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lila_cues.decoding import FrameReader
from lila_cues.frame_choice import FrameChoice, choose_frames
from lila_cues.pipeline.crop import WHOLE, base_box, cut
from lila_cues.pipeline.depth_files import DepthFiles
from lila_cues.pipeline.recipe import BuildRecipe
from lila_cues.sources import Source

AT_ONCE = 4
"""Whole frames in memory per clip being read."""


@dataclass(frozen=True)
class ClipFrames:
    """The kept frames of one clip."""

    clip_id: str
    choice: FrameChoice
    times: np.ndarray  # float64 F, s
    rgb: np.ndarray  # uint8 F y x 3, base crop
    small: np.ndarray  # uint8 F y x 3, the base crop on the cue grid
    seen: np.ndarray  # uint8 F y x 3, the base crop as the encoder sees it
    depth: np.ndarray | None  # float32 F y x on the cue grid, where depth comes from files


def take_in(source: Source, clip_id: str, recipe: BuildRecipe, depth: DepthFiles | None) -> ClipFrames:
    """Decode, crop and resize what is kept of a clip; a `LilaError` with the reason where that cannot be done."""
    geometry = recipe.geometry
    with source.open(clip_id) as reader:
        choice = choose_frames(recipe.seed, clip_id, len(reader), geometry.frames, geometry.pairs, recipe.max_gap)
        size, rgb = _read_base(reader, choice.frame_index, geometry.base)
        names = [reader.frame_name(int(index)) for index in choice.frame_index]
        times = reader.times[choice.frame_index]
    small = _resized(rgb, geometry.cue)
    seen = small if recipe.encoder_input == geometry.cue else _resized(rgb, recipe.encoder_input)
    maps = None
    if depth is not None:
        box = base_box(size, geometry.base)
        maps = np.stack([depth.read(clip_id, name, box, geometry.cue) for name in names])
    return ClipFrames(clip_id, choice, times, rgb, small, seen, maps)


def _resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack([cut(frame, WHOLE, size) for frame in frames])


def _read_base(reader: FrameReader, index: np.ndarray, base: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray]:
    """The size of the source's frames, and the base crops; a few whole frames at a time."""
    rgb = np.empty((len(index), *base, 3), np.uint8)
    size = (0, 0)
    for start in range(0, len(index), AT_ONCE):
        frames = reader.read(index[start : start + AT_ONCE].tolist())
        size = frames.shape[1:3]
        box = base_box(size, base)
        for offset, frame in enumerate(frames):
            rgb[start + offset] = cut(frame, box, base)
    return size, rgb
