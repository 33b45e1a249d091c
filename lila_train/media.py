"""Images and videos in, videos out: one frame at a time, so that memory does not grow with their length."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from stores.errors import LilaError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg"})

Picture = UInt8[np.ndarray, "h w 3"]


def read_image(path: Path) -> Picture:
    """An image as RGB: turned upright by its EXIF tag, alpha laid over black, 16 bits and CMYK converted."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I") or upright.mode == "F":
                return _grey_levels(np.asarray(upright, dtype=np.float64))
            return np.asarray(upright.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LilaError(f"{path} cannot be read as an image ({error}); is the file whole?") from error


def _grey_levels(values: np.ndarray) -> Picture:
    """16-bit and float grey scaled from their own range, whose type PIL does not know."""
    top = 65535 if values.max(initial=0) > 255 else 255 if values.max(initial=0) > 1 else 1
    grey = np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


class VideoFrames:
    """The frames of a video in order, upright, as RGB; `count` is what the file states, or None."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise LilaError(f"expected a video, found no video stream in {path}")
                stream = container.streams.video[0]
                self.count = stream.frames or None
                self.rate = Fraction(stream.average_rate or 25)
        except av.error.FFmpegError as error:
            raise LilaError(f"{path} cannot be read as a video ({error.strerror}); is the file whole?") from error

    def __iter__(self) -> Iterator[Picture]:
        seen = 0
        try:
            with av.open(str(self.path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for frame in container.decode(video=0):
                    seen += 1
                    yield np.rot90(frame.to_ndarray(format="rgb24"), (frame.rotation // 90) % 4).copy()
        except av.error.FFmpegError as error:
            raise LilaError(
                f"{self.path} breaks off after {seen} frames ({error.strerror}); is the file whole?"
            ) from error
        if not seen:
            raise LilaError(f"no frame can be read from {self.path}; is the file whole?")


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


def media_under(path: Path) -> list[Path]:
    """The images and videos that `path` names: itself, or those anywhere below the folder, sorted."""
    if not path.exists():
        raise LilaError(f"no file or folder at {path}")
    if path.is_file():
        if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            raise LilaError(f"expected an image or a video, found a {path.suffix or 'nameless'} file at {path}")
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and p.is_file())
    if not found:
        raise LilaError(f"no image or video under {path}")
    return found


def is_video(path: Path) -> bool:
    """By the suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES
