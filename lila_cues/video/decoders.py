"""Readers of frames by position: image files, and three video decoders with the files on which each is exact."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, UInt8

from lila_cues.video.probe import REMEDY, VideoProbe, open_container, video_stream
from stores.errors import LilaError

if TYPE_CHECKING:
    import av


class FrameReader(ABC):
    """Frames of one clip by position in presentation order.

    Open it in the process that uses it: a decoder's handle does not survive a fork. Reading in ascending order,
    a few frames at a time, costs one pass over the file.
    """

    times: Float64[np.ndarray, " n"]
    """Seconds from the start of the video, per frame."""

    def __len__(self) -> int:
        return len(self.times)

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "n y x 3"]:
        """Return the frames at `indices` as upright RGB; indices may repeat and come in any order."""
        wanted = np.asarray(indices, np.int64)
        if wanted.size == 0 or wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"frames {wanted.tolist()} asked of a clip that has frames 0 to {len(self) - 1}")
        ascending, position = np.unique(wanted, return_inverse=True)
        return self._ascending(ascending)[position]

    def frame_name(self, index: int) -> str:
        """Return the name, without suffix, by which files beside the clip refer to a frame."""
        return f"{index:05d}"

    @abstractmethod
    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        """Return the frames at strictly ascending `indices`."""

    def close(self) -> None:  # noqa: B027 - most readers hold nothing
        """Release the file."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ImageReader(FrameReader):
    """One image file per frame, in the order given, at `rate` frames per second, without an alpha channel."""

    def __init__(self, paths: Sequence[Path], rate: float = 24.0):
        self.paths = tuple(paths)
        self.times = np.arange(len(self.paths)) / rate

    def frame_name(self, index: int) -> str:
        return self.paths[index].stem

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        from lila_cues.images import read_image  # imports torch, which a command line need not wait for

        images: list[np.ndarray] = []
        for path in (self.paths[i] for i in indices):
            image = read_image(path, background=None)
            (height, width), expected = image.shape[:2], images[0].shape if images else image.shape
            if image.shape != expected:
                raise LilaError(
                    f"{path}: expected {expected[1]}×{expected[0]} like the frames before it, found {width}×{height}; "
                    "the frames of a clip must have one size"
                )
            images.append(image)
        return np.stack(images)


class PyavReader(FrameReader):
    """Decodes in order and never seeks: exact on every codec, and one pass over the file for ascending indices."""

    def __init__(self, path: Path, probe: VideoProbe):
        self.path, self.times = path, probe.times
        self._container: av.container.InputContainer | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._next = len(self)

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        if indices[0] < self._next:
            self.close()
            self._container = open_container(self.path)
            self._frames = iter(self._container.decode(video_stream(self._container, self.path)))
            self._next = 0
        pictures: list[np.ndarray] = []
        for frame in self._frames:
            self._next += 1
            if self._next == indices[len(pictures)] + 1:
                pictures.append(np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90)))
            if len(pictures) == len(indices):
                return np.stack(pictures)
        raise LilaError(f"{self.path}: expected a frame {indices[len(pictures)]}, found the end of the video; {REMEDY}")

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._container is not None:
            self._container.close()
            self._container = None


class SeekingReader(FrameReader):
    """A decoder with random access, used only where it is exact and counts the frames that the probe counted.

    `open` returns None elsewhere: on other files, and where the decoder is not installed or cannot open the file.
    """

    def __init__(self, path: Path, probe: VideoProbe, video: Any):
        self.path, self.times, self.probe = path, probe.times, probe
        self._video = video

    def close(self) -> None:
        self._video = None


class DecordReader(SeekingReader):
    """decord: exact on H.264 and VP9 in MP4 and Matroska, without edit list or intra refresh."""

    @classmethod
    def open(cls, path: Path, probe: VideoProbe) -> FrameReader | None:
        exact = (
            probe.codec in ("h264", "vp9")
            and probe.pixel_format in ("yuv420p", "yuvj420p")
            and probe.container.startswith(("mov,mp4", "matroska"))
            and probe.seekable
            and not probe.edited
        )
        if not exact or find_spec("decord") is None:
            return None
        decord = load_decord()
        try:
            video = decord.VideoReader(str(path), num_threads=1)
        except (decord.DECORDError, RuntimeError):
            return None
        return cls(path, probe, video) if len(video) == len(probe.times) else None

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        frames = self._video.get_batch(indices.tolist()).asnumpy()
        if any(np.array_equal(one, other) for one, other in pairwise(frames)):
            # a still picture, or a frame that decord could not decode and replaced by the one before
            with PyavReader(self.path, self.probe) as reader:
                return reader.read(indices.tolist())
        return frames


def load_decord() -> ModuleType:
    """Import decord without exporting its symbols.

    It loads its library with `RTLD_GLOBAL`, and the zlib bundled with it then answers the calls of every library loaded
    later: OpenCV's PNG reader fails, torchvision's crashes.
    """
    rtld_global = ctypes.RTLD_GLOBAL
    setattr(ctypes, "RTLD_GLOBAL", ctypes.RTLD_LOCAL)  # noqa: B010 - the type checker takes it for a constant
    try:
        import decord
    finally:
        setattr(ctypes, "RTLD_GLOBAL", rtld_global)  # noqa: B010
    decord.logging.set_level(decord.logging.QUIET)
    return decord


class TorchcodecReader(SeekingReader):
    """torchcodec's exact mode, in one thread; it scans the file when it opens it."""

    @classmethod
    def open(cls, path: Path, probe: VideoProbe) -> FrameReader | None:
        decoders = require_torchcodec()
        if not probe.seekable or not probe.container.startswith(("mov,mp4", "matroska", "avi")):
            return None
        try:
            video = decoders.VideoDecoder(str(path), seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1)
        except (RuntimeError, ValueError):
            return None
        return cls(path, probe, video) if len(video) == len(probe.times) else None

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        return self._video.get_frames_at(indices.tolist()).data.numpy()


def require_torchcodec() -> ModuleType:
    """Import torchcodec's decoders; LilaError with the remedy where they do not load."""
    try:
        from torchcodec import decoders
    except (ImportError, RuntimeError, OSError) as error:
        raise LilaError(
            "expected torchcodec with FFmpeg's shared libraries for --decoder torchcodec, found none that loads; "
            "`pip install 'lila-pixels[torchcodec]'` and install FFmpeg of the system (apt install ffmpeg), or choose "
            "--decoder decord"
        ) from error
    return decoders
