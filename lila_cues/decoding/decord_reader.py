"""decord, for the files on which its random access is exact."""

from __future__ import annotations

import ctypes
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np

from lila_cues.decoding.pyav_reader import PyavReader
from lila_cues.decoding.reader import FrameReader
from lila_cues.decoding.survey import Survey

EXACT_CODECS = {"h264", "vp9"}
EXACT_CONTAINERS = ("mov,mp4", "matroska")
EXACT_PIXELS = {"yuv420p", "yuvj420p"}


class DecordReader(FrameReader):
    """decord's random access, for the files on which it is exact."""

    def __init__(self, path: Path, found: Survey):
        decord = load_decord()
        self.path, self.times, self._survey = path, found.times, found
        try:
            self._video = decord.VideoReader(str(path), num_threads=1)
        except (decord.DECORDError, RuntimeError):
            self._video = None

    @property
    def agrees(self) -> bool:
        """Whether decord counts the frames that decoding in order has counted."""
        return self._video is not None and len(self._video) == len(self)

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        frames = self._video.get_batch(indices.tolist()).asnumpy()
        if _repeats(frames):  # a still picture, or a frame that decord could not get and filled in with the last one
            with PyavReader(self.path, self._survey) as reader:
                return reader.read(indices.tolist())
        return frames

    def close(self) -> None:
        """Let decord free the file."""
        self._video = None


def load_decord() -> ModuleType:
    """Import decord with its symbols kept to itself.

    It loads its library with `RTLD_GLOBAL`, and the zlib bundled with it then answers the calls of every library loaded
    later: OpenCV's PNG reader fails, torchvision's crashes.
    """
    everywhere = ctypes.RTLD_GLOBAL
    setattr(ctypes, "RTLD_GLOBAL", ctypes.RTLD_LOCAL)  # noqa: B010 - the type checker takes it for a constant
    try:
        import decord
    finally:
        setattr(ctypes, "RTLD_GLOBAL", everywhere)  # noqa: B010
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _repeats(frames: np.ndarray) -> bool:
    return any(np.array_equal(one, other) for one, other in pairwise(frames))
