"""The shared base crop: a centred part of the frame that has the shape of the base, and every map cut the same way.

Depth maps of one's own in place of a depth network: `files:DIR`, a 16-bit PNG in millimetres per frame.

From a clip's id to the frames the networks see: chosen, decoded, cropped. Runs ahead of the networks, in threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from jaxtyping import Float32

from lila_cues.config import BuildRecipe
from lila_cues.datasets.base import Dataset
from lila_cues.sampling import FrameSelection, select_frames
from lila_cues.video.decoders import FrameReader
from stores.errors import LilaError


@dataclass(frozen=True)
class Box:
    """A part of a frame in fractions of its height and width, so that it cuts a map of any resolution."""

    top: float
    left: float
    bottom: float
    right: float


def base_box(frame: tuple[int, int], base: tuple[int, int]) -> Box:
    """The largest centred box of a frame (y, x) with the aspect of the base (y, x), on whole pixels."""
    scale = min(frame[0] / base[0], frame[1] / base[1])
    height, width = (max(1, min(side, round(part * scale))) for side, part in zip(frame, base, strict=True))
    top, left = (frame[0] - height) // 2, (frame[1] - width) // 2
    return Box(top / frame[0], left / frame[1], (top + height) / frame[0], (left + width) / frame[1])


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


def cut(image: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The box of an image (y x …), resized to `size` (y, x): by area where it shrinks, bilinearly where it grows."""
    top, bottom = box.top * image.shape[0], box.bottom * image.shape[0]
    left, right = box.left * image.shape[1], box.right * image.shape[1]
    if bottom - top >= size[0] and right - left >= size[1]:
        part = image[round(top) : round(bottom), round(left) : round(right)]
        return cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA)
    rows = _centres(top, bottom, size[0])[:, None].repeat(size[1], axis=1)
    columns = _centres(left, right, size[1])[None].repeat(size[0], axis=0)
    return cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _centres(start: float, end: float, count: int) -> np.ndarray:
    """Centres of `count` equal cells between two edges, as pixel positions."""
    return ((np.arange(count) + 0.5) * (end - start) / count + start - 0.5).astype(np.float32)


PREFIX = "files:"
INVERSE_DEPTH = 100.0
"""q = 100 / z[m]: s = 0.01 q of docs/method.md is then 1/z."""


class DepthFiles:
    """`DIR/CLIP/FRAME.png`, CLIP with or without its suffix; FRAME as the frame's image is called, or its number.

    A map of any resolution covers the whole frame. 0 mm is a hole and becomes q = 0, infinitely far, which is masked.
    """

    def __init__(self, root: Path):
        self.root = root
        if not root.is_dir():
            raise LilaError(f"expected depth maps in {root}, found no such folder; give it with --depth files:DIR")

    def read(self, clip_id: str, frame: str, box: Box, size: tuple[int, int]) -> Float32[np.ndarray, "y x"]:
        """Relative inverse depth q of that part of the frame."""
        path = self._path(clip_id, frame)
        data = np.fromfile(path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
        if image is None or image.dtype != np.uint16 or image.ndim != 2:
            found = "no image" if image is None else f"{image.dtype} with shape {image.shape}"
            raise LilaError(f"{path}: expected a 16-bit grey PNG in millimetres, found {found}; write the map again")
        return inverse_depth(image, box, size)

    def _path(self, clip_id: str, frame: str) -> Path:
        folders = [self.root / clip_id, self.root / PurePosixPath(clip_id).with_suffix("")]
        path = next((folder / f"{frame}.png" for folder in folders if (folder / f"{frame}.png").is_file()), None)
        if path is None:
            raise LilaError(
                f"expected the depth map of frame {frame} at {folders[0]}/{frame}.png, found none; "
                "give the folder above the clips' folders with --depth files:DIR"
            )
        return path


def inverse_depth(millimetres: np.ndarray, box: Box, size: tuple[int, int]) -> Float32[np.ndarray, "y x"]:
    """q on the grid: the mean over what is known, 0 where less than half is."""
    known = (millimetres > 0).astype(np.float32)
    q = np.divide(1000 * INVERSE_DEPTH, millimetres, out=np.zeros_like(known), where=millimetres > 0)
    weight = cut(known, box, size)
    mean = np.divide(cut(q, box, size), weight, out=np.zeros_like(weight), where=weight > 0)
    return np.where(weight >= 0.5, mean, 0).astype(np.float32)


AT_ONCE = 4
"""Whole frames in memory per clip being read."""


@dataclass(frozen=True)
class ClipFrames:
    """The kept frames of one clip."""

    clip_id: str
    choice: FrameSelection
    times: np.ndarray  # float64 F, s
    rgb: np.ndarray  # uint8 F y x 3, base crop
    small: np.ndarray  # uint8 F y x 3, the base crop on the cue grid
    seen: np.ndarray  # uint8 F y x 3, the base crop as the encoder sees it
    depth: np.ndarray | None  # float32 F y x on the cue grid, where depth comes from files


def load_clip(source: Dataset, clip_id: str, recipe: BuildRecipe, depth: DepthFiles | None) -> ClipFrames:
    """Decode, crop and resize what is kept of a clip; a `LilaError` with the reason where that cannot be done."""
    geometry = recipe.geometry
    with source.open(clip_id) as reader:
        choice = select_frames(recipe.seed, clip_id, len(reader), geometry.frames, geometry.pairs, recipe.max_gap)
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
