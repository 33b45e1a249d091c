"""From a clip's id to its frames: selected, decoded, cropped to the base crop and resized; depth maps from files.

The base crop is the largest centered part of a frame with the aspect of the stored RGB; every map is cut the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from jaxtyping import Float32

from lila_cues.config import BuildConfig
from lila_cues.datasets import Dataset
from lila_cues.images import read_depth
from lila_cues.networks.weights import WeightSource
from lila_cues.sampling import FrameSelection, select_frames
from stores.errors import LilaError

INVERSE_DEPTH_OF_1_M = 100.0
"""q = 100 / z[m]: s = 0.01 q of docs/method.md is then 1/z."""


@dataclass(frozen=True)
class ClipFrames:
    """The selected frames of one clip."""

    clip_id: str
    selection: FrameSelection
    times: np.ndarray  # float64 F, s
    rgb: np.ndarray  # uint8 F y x 3, base crop
    images: Mapping[tuple[int, int], np.ndarray]  # by size (y, x): uint8 F y x 3, base crop
    inverse_depth: np.ndarray | None  # float32 F y x on the cue grid, relative inverse depth, where it comes from files


def load_clip(
    dataset: Dataset,
    clip_id: str,
    config: BuildConfig,
    sizes: Iterable[tuple[int, int]],
    depth_files: DepthFiles | None,
) -> ClipFrames:
    """Decode, crop and resize a clip's selected frames to the networks' `sizes` (y, x); LilaError if unreadable."""
    base, cue = (config.base_size,) * 2, (config.cue_size,) * 2

    def select(n_frames: int) -> FrameSelection:
        return select_frames(config.seed, clip_id, n_frames, config.frames, config.pairs, config.max_gap)

    clip = dataset.read(
        clip_id, lambda n: select(n).frame_index, lambda frame: crop(frame, base_box(frame.shape[:2], base), base)
    )
    images = {size: np.stack([crop(frame, FULL, size) for frame in clip.frames]) for size in set(sizes)}
    inverse_depth = None
    if depth_files is not None:
        box = base_box(clip.size, base)
        inverse_depth = np.stack([depth_files.read(clip_id, name, box, cue) for name in clip.names])
    return ClipFrames(clip_id, select(clip.n_frames), clip.times, clip.frames, images, inverse_depth)


@dataclass(frozen=True)
class Box:
    """A part of a frame in fractions of its height and width, so that it cuts a map of any resolution."""

    top: float
    left: float
    bottom: float
    right: float


FULL = Box(0.0, 0.0, 1.0, 1.0)


def base_box(frame: tuple[int, int], base: tuple[int, int]) -> Box:
    """Return the largest centered box of a frame (y, x) with the aspect of the base crop (y, x), on pixel borders."""
    scale = min(frame[0] / base[0], frame[1] / base[1])
    height, width = (max(1, min(side, round(part * scale))) for side, part in zip(frame, base, strict=True))
    top, left = (frame[0] - height) // 2, (frame[1] - width) // 2
    return Box(top / frame[0], left / frame[1], (top + height) / frame[0], (left + width) / frame[1])


def crop(image: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Cut a box out of an image (y x …) and resize it to `size` (y, x): by area to shrink, bilinearly to enlarge."""
    top, bottom = box.top * image.shape[0], box.bottom * image.shape[0]
    left, right = box.left * image.shape[1], box.right * image.shape[1]
    if bottom - top >= size[0] and right - left >= size[1]:
        part = image[round(top) : round(bottom), round(left) : round(right)]
        return cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA)
    rows = _cell_centers(top, bottom, size[0])[:, None].repeat(size[1], axis=1)
    columns = _cell_centers(left, right, size[1])[None].repeat(size[0], axis=0)
    return cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _cell_centers(start: float, end: float, count: int) -> np.ndarray:
    """Return the centers of `count` equal cells between two edges, as pixel positions."""
    return ((np.arange(count) + 0.5) * (end - start) / count + start - 0.5).astype(np.float32)


class DepthFiles:
    """The user's depth maps, 16-bit PNGs in millimetres, in place of a depth network: `DIR/CLIP/FRAME.png`.

    CLIP with or without its suffix; FRAME is the name of the frame's image, or its number. A map of any resolution
    covers the full frame. 0 mm is a hole and becomes q = 0, infinitely far, which is masked.
    """

    def __init__(self, root: Path):
        self.root, self.settings = root, {"inverse_depth_of_1_m": INVERSE_DEPTH_OF_1_M}
        self.source = WeightSource("files", "file", str(root), None, None, "of the user's own maps")
        if not root.is_dir():
            raise LilaError(f"expected depth maps in {root}, found no such folder; give it with --depth files:DIR")

    def read(self, clip_id: str, frame: str, box: Box, size: tuple[int, int]) -> Float32[np.ndarray, "y x"]:
        """Return the relative inverse depth q of a part of a frame."""
        folders = [self.root / clip_id, self.root / PurePosixPath(clip_id).with_suffix("")]
        path = next((folder / f"{frame}.png" for folder in folders if (folder / f"{frame}.png").is_file()), None)
        if path is None:
            raise LilaError(
                f"expected the depth map of frame {frame} at {folders[0]}/{frame}.png, found none; "
                "give the folder above the clips' folders with --depth files:DIR"
            )
        return inverse_depth(read_depth(path), box, size)


def inverse_depth(millimetres: np.ndarray, box: Box, size: tuple[int, int]) -> Float32[np.ndarray, "y x"]:
    """Return q on the grid: the mean over the known part of each cell, 0 where less than half of it is known."""
    known = (millimetres > 0).astype(np.float32)
    q = np.divide(1000 * INVERSE_DEPTH_OF_1_M, millimetres, out=np.zeros_like(known), where=millimetres > 0)
    weight = crop(known, box, size)
    mean = np.divide(crop(q, box, size), weight, out=np.zeros_like(weight), where=weight > 0)
    return np.where(weight >= 0.5, mean, 0).astype(np.float32)
