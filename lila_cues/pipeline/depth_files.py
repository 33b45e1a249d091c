"""Depth maps of one's own in place of a depth network: `files:DIR`, a 16-bit PNG in millimetres per frame."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from jaxtyping import Float32

from lila_cues.pipeline.crop import Box, cut
from stores.errors import LilaError

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
