"""decord, for the files on which its random access is exact.

PyAV, decoding in order.

torchcodec in its exact mode, by option.

One pass over a video before any of its frames is used: how many there are, when each is shown, what is damaged.

A container's own frame count is a promise. It counts frames that an edit list hides and frames that a truncated copy
lost; and a decoder given a flipped bit conceals the damage and returns a picture. So the file is decoded once, without
converting a pixel, and every frame that comes out is counted and asked whether it is whole.

What stage one asks of anything that has frames, and the simplest case: one image file per frame.
"""

from __future__ import annotations

import ctypes
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, UInt8

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
        """The frames at `indices`, in that order, RGB, upright; any order, repeats allowed."""
        wanted = np.asarray(indices, np.int64)
        if wanted.size == 0 or wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"frames {wanted.tolist()} asked of a clip that has frames 0 to {len(self) - 1}")
        ascending, position = np.unique(wanted, return_inverse=True)
        return self._ascending(ascending)[position]

    def frame_name(self, index: int) -> str:
        """What files beside the clip call that frame, without a suffix."""
        return f"{index:05d}"

    @abstractmethod
    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        """The frames at strictly ascending `indices`."""

    def close(self) -> None:  # noqa: B027 - most readers hold nothing
        """Release the file."""

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ImageReader(FrameReader):
    """One image file per frame, in the order given, at `rate` frames per second."""

    def __init__(self, paths: Sequence[Path], rate: float = 24.0):
        self.paths = tuple(paths)
        self.times = np.arange(len(self.paths)) / rate

    def frame_name(self, index: int) -> str:
        """The image file's name without its suffix."""
        return self.paths[index].stem

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        images = [read_image(self.paths[i]) for i in indices]
        for position, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                raise LilaError(
                    f"{self.paths[position]}: expected {_size(images[0])} like the frames before it, found "
                    f"{_size(image)}; the frames of a clip must have one size"
                )
        return np.stack(images)


def read_image(path: Path) -> UInt8[np.ndarray, "y x 3"]:
    """An image file as RGB; one sentence if it is none."""
    import cv2

    data = np.fromfile(path, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        found = "a file that no image format fits" if data.size else "an empty file"
        raise LilaError(f"{path}: expected an image, found {found}; copy it again or take it out of the clip")
    return np.ascontiguousarray(image[..., ::-1])


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"


REMEDY = "copy it again or take it out of the folder"
ATTACHED_PICTURE = "attached_pic"


@dataclass(frozen=True)
class VideoProbe:
    """What a video file holds. `times` in seconds from its start, one per frame that is shown, ascending."""

    container: str
    """FFmpeg's name of the format, such as `mov,mp4,m4a,3gp,3g2,mj2`."""
    codec: str
    """FFmpeg's name, such as `h264`."""
    pixel_format: str
    """FFmpeg's name, such as `yuv420p`."""
    times: Float64[np.ndarray, " n"]
    edited: bool
    """An edit list hides frames of the file."""
    seekable: bool = True
    """Whatever the file marks as a key frame is one; a marked step of an intra refresh is not, and decodes wrong."""

    def __len__(self) -> int:
        return len(self.times)


def probe(path: Path) -> VideoProbe:
    """Decode the file once in order; a `LilaError` with the reason where it is not a whole video."""
    if not path.is_file():
        raise LilaError(
            f"{path}: expected a video file, found {'a folder' if path.is_dir() else 'nothing'}; check the path"
        )
    if path.stat().st_size == 0:
        raise LilaError(f"{path}: expected a video, found an empty file; {REMEDY}")
    with open_container(path) as container:
        stream = video_stream(container, path)
        return _decode_once(container, stream, path)


def open_container(path: Path) -> av.container.InputContainer:
    """The file as PyAV sees it, its own messages silenced; only local files are followed."""
    import av

    av.logging.set_level(av.logging.PANIC)
    try:
        return av.open(str(path), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, ValueError) as error:
        raise LilaError(
            f"{path}: expected a video, found a file that cannot be opened ({_reason(error)}); {REMEDY}"
        ) from error


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The first moving picture in the file; a cover picture of a song is none."""
    for stream in container.streams.video:
        if ATTACHED_PICTURE in str(stream.disposition):
            continue
        if stream.codec_context is None:
            raise LilaError(f"{path}: expected a video, found one in a format that no decoder here knows; {REMEDY}")
        stream.codec_context.thread_count = 1
        return stream
    held = sorted({str(stream.type) for stream in container.streams}) or ["nothing"]
    raise LilaError(f"{path}: expected a video, found only {' and '.join(held)} in it; {REMEDY}")


def _decode_once(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> VideoProbe:
    packets, hidden, damaged, marked, keys = 0, 0, 0, 0, 0
    stamps: list[int | None] = []
    sizes: set[tuple[int, int]] = set()
    for packet in _packets(container, stream, path):
        packets += bool(packet.size)
        hidden += packet.is_discard
        marked += packet.is_keyframe and not packet.is_discard
        for frame in _frames(packet, path, len(stamps)):
            stamps.append(frame.pts)
            sizes.add((frame.height, frame.width))
            damaged += frame.is_corrupt
            keys += frame.key_frame
    if not stamps:
        raise LilaError(f"{path}: expected a video, found one without a single frame; {REMEDY}")
    promised, times, context = _promised_frames(container, stream), _times(stamps, stream), stream.codec_context
    seconds = _promised_seconds(container, stream)
    if len(sizes) > 1:
        found = " and ".join(f"{width}×{height}" for height, width in sorted(sizes)[:3])
        raise LilaError(f"{path}: expected frames of one size, found {found}; cut the video where its size changes")
    if damaged:
        raise LilaError(f"{path}: expected a whole video, found {damaged} of its {len(times)} frames damaged; {REMEDY}")
    if packets < promised:
        raise LilaError(
            f"{path}: expected a whole video, found {packets} of the {promised} frames it announces; {REMEDY}"
        )
    if times[-1] + 0.1 + 2 * times[-1] / len(times) < seconds:
        found = f"{times[-1]:.1f} of the {seconds:.1f} seconds it announces"
        raise LilaError(f"{path}: expected a whole video, found {found}; {REMEDY}")
    return VideoProbe(
        container=container.format.name,
        codec=context.codec.canonical_name,
        pixel_format=context.pix_fmt or "",
        times=times,
        edited=bool(hidden) or (promised > 0 and packets != len(stamps)),
        seekable=marked <= keys,
    )


def _packets(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> Iterator[av.Packet]:
    import av

    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except av.FFmpegError as error:
            raise LilaError(
                f"{path}: expected a whole video, found one cut short ({_reason(error)}); {REMEDY}"
            ) from error


def _frames(packet: av.Packet, path: Path, position: int) -> list[av.VideoFrame]:
    import av

    try:
        return packet.decode()
    except av.FFmpegError as error:
        raise LilaError(
            f"{path}: expected a whole video, found damage near frame {position} ({_reason(error)}); {REMEDY}"
        ) from error


def _promised_frames(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """Frames that the file's index announces, 0 where its format has no full index."""
    return len(stream.index_entries) if "mp4" in container.format.name else 0


def _promised_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Length that Matroska's header announces for this stream, 0.0 where it does not.

    The container's own length counts a longer sound track and the stream's tag may be a leftover of an earlier file:
    the shorter of the two is believed.
    """
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))
    if tag is None or not container.duration:
        return 0.0
    hours, minutes, seconds = (float(part) for part in tag.groups())
    return min(3600 * hours + 60 * minutes + seconds, container.duration / 1e6)


def _times(stamps: list[int | None], stream: av.VideoStream) -> np.ndarray:
    if None in stamps or np.any(np.diff(np.array(stamps, np.int64)) <= 0):
        return np.arange(len(stamps)) / float(stream.average_rate or 25)  # a stream without usable time stamps
    ticks = np.array(stamps, np.int64)
    return (ticks - ticks[0]) * float(stream.time_base or 1)  # a transport stream begins at any time


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


class PyavReader(FrameReader):
    """Decodes in order and never seeks: exact on every codec, and one pass over the file for ascending indices."""

    def __init__(self, path: Path, found: VideoProbe):
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


EXACT_CODECS = {"h264", "vp9"}
EXACT_CONTAINERS = ("mov,mp4", "matroska")
EXACT_PIXELS = {"yuv420p", "yuvj420p"}


class DecordReader(FrameReader):
    """decord's random access, for the files on which it is exact."""

    def __init__(self, path: Path, found: VideoProbe):
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


INDEXED_CONTAINERS = ("mov,mp4", "matroska", "avi")


class TorchcodecReader(FrameReader):
    """torchcodec's exact mode, upright, one thread; it scans the file once more when it opens it."""

    def __init__(self, path: Path, found: VideoProbe):
        decoders = require_torchcodec()
        self.path, self.times = path, found.times
        try:
            self._video = decoders.VideoDecoder(
                str(path), seek_mode="exact", dimension_order="NHWC", num_ffmpeg_threads=1
            )
        except (RuntimeError, ValueError):
            self._video = None

    @property
    def agrees(self) -> bool:
        """Whether torchcodec counts the frames that decoding in order has counted."""
        return self._video is not None and len(self._video) == len(self)

    def _ascending(self, indices: np.ndarray) -> np.ndarray:
        return self._video.get_frames_at(indices.tolist()).data.numpy()

    def close(self) -> None:
        """Let torchcodec free the file."""
        self._video = None


def require_torchcodec() -> ModuleType:
    """torchcodec's decoders; one sentence where they do not load."""
    try:
        from torchcodec import decoders
    except (ImportError, RuntimeError, OSError) as error:
        raise LilaError(
            "expected torchcodec with FFmpeg's shared libraries for --decoder torchcodec, found none that loads; "
            "`pip install 'lila-pixels[torchcodec]'` and install FFmpeg of the system (apt install ffmpeg), or choose "
            "--decoder decord"
        ) from error
    return decoders
