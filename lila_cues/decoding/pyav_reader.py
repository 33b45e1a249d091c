"""PyAV, decoding in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lila_cues.decoding.reader import FrameReader
from lila_cues.decoding.survey import REMEDY, Survey, open_container, video_stream
from stores.errors import LilaError

if TYPE_CHECKING:
    import av


class PyavReader(FrameReader):
    """Decodes in order and never seeks: exact on every codec, and one pass over the file for ascending indices."""

    def __init__(self, path: Path, found: Survey):
        self.path, self.times = path, found.times
        self._container: av.container.InputContainer | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._next = len(self)

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        if indices[0] < self._next:
            self._rewind()
        return np.stack([self._picture(int(index)) for index in indices])

    def _picture(self, index: int) -> np.ndarray:
        while True:
            frame = next(self._frames, None)
            if frame is None:
                raise LilaError(f"{self.path}: expected a frame {index}, found the end of the video; {REMEDY}")
            self._next += 1
            if self._next == index + 1:
                return np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90))

    def _rewind(self) -> None:
        self.close()
        self._container = open_container(self.path)
        self._frames = iter(self._container.decode(video_stream(self._container, self.path)))
        self._next = 0

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._container is not None:
            self._container.close()
            self._container = None
