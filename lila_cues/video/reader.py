"""A video file as a `FrameReader`: which decoder reads it, and the guards around each.

decord is exact on H.264 and VP9 in MP4 and Matroska and applies a rotation; but it returns wrong frames of HEVC and of
MPEG transport streams after a seek and of MPEG-4 with B-frames, counts frames that an edit list hides, and repeats a
last frame it cannot have. torchcodec is exact on all of these but transport streams, where it loses the last frames.
Both trust a file that marks steps of an intra refresh as key frames. PyAV is exact where it decodes in order. So each
reads what it is known to read right, and PyAV the rest.

Videos in and out, one frame at a time, so that memory does not grow with their length.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.stream import VideoStream

from lila_cues.video.decoders import (
    EXACT_CODECS,
    EXACT_CONTAINERS,
    EXACT_PIXELS,
    INDEXED_CONTAINERS,
    DecordReader,
    FrameReader,
    PyavReader,
    TorchcodecReader,
    VideoProbe,
    probe,
    require_torchcodec,
)
from lila_cues.viz.pictures import Picture
from stores.errors import LilaError

DECODERS = ("decord", "pyav", "torchcodec")


def open_video(path: Path, decoder: str = "decord") -> FrameReader:
    """A reader of the file's frames; `decoder` is one of `DECODERS`, and PyAV stands in where it is not exact."""
    path = Path(path)
    found = probe(path)
    reader = _seeking(path, decoder, found)
    return reader if reader is not None and reader.agrees else PyavReader(path, found)


def require_decoder(name: str) -> None:
    """Refuse a decoder that is unknown or not installed, before it fails on each file in turn."""
    if name not in DECODERS:
        raise LilaError(
            f"expected a decoder among {', '.join(DECODERS)}, found {name!r}; pass one of these with --decoder"
        )
    if name == "torchcodec":
        require_torchcodec()


def _seeking(path: Path, decoder: str, found: VideoProbe) -> DecordReader | TorchcodecReader | None:
    """The reader asked for, where it is known to be exact on such a file."""
    if decoder == "torchcodec":
        require_torchcodec()
        return TorchcodecReader(path, found) if torchcodec_fits(found) else None
    return DecordReader(path, found) if decoder == "decord" and decord_fits(found) else None


def decord_fits(found: VideoProbe) -> bool:
    """Whether decord is installed and known to be exact on such a file."""
    known = found.codec in EXACT_CODECS and found.pixel_format in EXACT_PIXELS
    known = known and found.container.startswith(EXACT_CONTAINERS)
    return known and found.seekable and not found.edited and find_spec("decord") is not None


def torchcodec_fits(found: VideoProbe) -> bool:
    """Whether torchcodec is known to be exact on such a file."""
    return found.seekable and found.container.startswith(INDEXED_CONTAINERS)


def decoder_version(decoder: str) -> str:
    """For the provenance: the decoder asked for and PyAV, which surveys every file and stands in."""
    packages = {"decord": ("decord", "av"), "pyav": ("av",), "torchcodec": ("torchcodec", "av")}[decoder]
    return " + ".join(f"{name} {_version(name)}" for name in packages)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


class VideoFrames:
    """The frames of a video in order, upright, as RGB; `count` is what the file or its duration says, or None.

    LilaError while reading where a file breaks off, or ends well before its count: some containers end without a word.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise LilaError(f"expected a video, found no video stream in {path}")
                stream = container.streams.video[0]
                self.rate = Fraction(stream.average_rate or 25)
                seconds = container.duration / av.time_base if container.duration else 0
                self.count = stream.frames or round(seconds * self.rate) or None
                lone = len(container.streams) == 1  # else the duration may be that of longer sound
                self._least = round((self.count or 0) * (0.9 if stream.frames or lone else 0.5))
        except av.error.FFmpegError as error:
            raise LilaError(f"{path} cannot be read as a video ({error.strerror}); is the file whole?") from error

    def __iter__(self) -> Iterator[Picture]:
        seen = 0
        try:
            with av.open(str(self.path)) as container:
                # FFmpeg's own threads log through Python and can wait for a lock that this thread holds while it waits
                # for them: on a damaged file, reading hung. The networks take far longer than one decoding thread.
                container.streams.video[0].codec_context.thread_count = 1
                for frame in container.decode(video=0):
                    seen += 1
                    yield np.rot90(frame.to_ndarray(format="rgb24"), (frame.rotation // 90) % 4).copy()
        except av.error.FFmpegError as error:
            raise LilaError(
                f"{self.path} breaks off after {seen} frames ({error.strerror}); is the file whole?"
            ) from error
        if not seen:
            raise LilaError(f"no frame can be read from {self.path}; is the file whole?")
        if seen < self._least:
            raise LilaError(f"{self.path} ends after {seen} of about {self.count} frames; is the file whole?")


class VideoWriter:
    """An H.264 file made of RGB frames of one size; it appears under its name when it is complete."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self._temporary = path.with_name(f".{path.stem}.part{path.suffix}")
        self._container = av.open(str(self._temporary), "w")
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, picture: Picture) -> None:
        """Add a frame; an odd last row or column is repeated, as H.264's 4:2:0 needs even sides."""
        even = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._begin(*even.shape[:2])
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

    def _begin(self, height: int, width: int) -> VideoStream:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = self._container.add_stream(codec, rate=self.rate)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"crf": "18"}
        return stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if kind is None and self._stream is not None:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink(missing_ok=True)
