"""Video files out, frame by frame."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from lila_cues.viz.pictures import Picture
from stores.atomic import atomic_path
from stores.errors import LilaError

HIGH_QUALITY = {"crf": "18"}


def video_codec() -> str:
    """Return "libx264" (H.264) where this PyAV can write it, else "mpeg4"."""
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


class VideoWriter:
    """A video file made of RGB frames of one size; it gets its name when the block ends.

    After a LilaError, such as that of an input that is damaged from here on, it holds the frames before; after any
    other error, or without a frame, there is none. `rate` is in frames per second, `options` are those of the codec.
    """

    def __init__(self, path: Path, rate: Fraction, options: Mapping[str, str] = HIGH_QUALITY) -> None:
        self.path, self.rate, self.options = path, rate, dict(options)
        self._file = ExitStack()
        self._container: OutputContainer | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, picture: Picture) -> None:
        """Add a frame; an odd last row or column is repeated, as H.264's 4:2:0 needs even sides."""
        even = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
        if self._container is None:
            temporary = self._file.enter_context(atomic_path(self.path))
            self._container = self._file.enter_context(av.open(str(temporary), "w"))
            stream = self._container.add_stream(video_codec(), rate=self.rate, options=self.options)
            assert isinstance(stream, VideoStream)
            stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
        self._encode(av.VideoFrame.from_ndarray(even, format="rgb24"))

    def _encode(self, frame: av.VideoFrame | None) -> None:
        assert self._container is not None
        self._container.mux(self._container.streams.video[0].encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, LilaError):
            self._file.__exit__(kind, error, trace)
            return
        if self._container is not None:
            self._file.callback(self._encode, None)  # the frames that the codec still holds
        self._file.close()
