"""Video files in: `read_clip` for selected frames of a clip, `VideoFrames` for all frames in order.

Both make the same pass over a file. PyAV decodes it in order and never seeks, which is exact on every codec, and the
pass checks it: a container's frame count includes frames that an edit list hides and frames that a truncated copy
lost, and a decoder conceals damage and returns a picture.

FFmpeg's filter chain converts frames to RGB, bit for bit as the `ffmpeg` command does (measured on 8 and 10 bits, 4:2:0
and 4:2:2). Interlaced frames stay woven and their chroma is interpolated over both fields, as by that command, decord
and torchcodec: the flag often marks progressive pictures. PyAV's `to_ndarray` interpolates within each field instead;
the decoded planes are the same, but RGB differs by up to 255 gray levels, and by 2.5 in the mean of a test pattern.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.filter import Graph
from jaxtyping import Float64, UInt8

from lila_cues.inputs import check_pixels
from lila_cues.video import decoders
from lila_cues.video.clip import DecodedClip, Keep, Select, selected
from stores.errors import LilaError, os_reason

REMEDY = "copy it again or take it out of the folder"


def read_clip(path: Path, select: Select, keep: Keep = np.asarray, decoder: str = "pyav") -> DecodedClip:
    """Decode a video once, in order, and keep the frames that `select(n_frames)` names.

    Another `decoder` (a key of `decoders.EXACT`) seeks to these frames after a pass that checks the file.

    Raises:
        LilaError: the file is damaged, cut short, changes its size, or is of a kind on which `decoder` is not exact.
        IndexError: `select` returns nothing, or a position outside the clip.
    """
    n_frames = count_frames(path)
    for _ in range(2):  # again only where the count was wrong: lost frames, packets that show none
        indices = selected(select, n_frames) if n_frames else []
        video, kept = _decode(path, indices if decoder == "pyav" else [], keep)
        if len(video.stamps) == n_frames:
            break
        previous, n_frames = n_frames, len(video.stamps)
    else:
        found = f"{previous}, then {n_frames}"
        raise LilaError(f"{path}: expected the same number of frames at each reading, found {found}; {REMEDY}")
    if decoder != "pyav":
        decoders.require_exact(decoder, video)
        read = decoders.read_frames(decoder, path, n_frames, sorted(set(indices)), keep)
        kept = _decode(path, indices, keep)[1] if read is None else read
    names, frames = [f"{index:05d}" for index in indices], np.stack([kept[index] for index in indices])
    return DecodedClip(n_frames, video.size, names, video.times()[indices], frames)


def count_frames(path: Path) -> int:
    """Return the number of frames by demuxing, about 5 % of the cost of decoding; few kinds of files have another."""
    return sum(bool(packet.size) and not packet.is_discard for packet in VideoPass(path).packets())


class VideoFrames:
    """The frames of a video in order, as upright RGB, one at a time, so that memory does not grow with its length.

    `rate` is in frames per second; `count` is a hint, what the file or its duration announces, None where neither does.
    `size` is the announced height and width, before a rotation.
    Iterating raises LilaError where the file turns out to be damaged, cut short, or to change its size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_container(path) as container:
            stream = video_stream(container, path)
            self.rate = Fraction(stream.average_rate or 25)
            self.size = stream.height, stream.width
            self.count = stream.frames or round((container.duration or 0) / 1_000_000 * self.rate) or None
        self._pass = VideoPass(path)

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "y x 3"]]:
        to_rgb, self._pass = RgbConverter(), VideoPass(self.path)
        with closing(self._pass.frames()) as frames:
            yield from map(to_rgb, frames)

    def times(self) -> Float64[np.ndarray, " n"]:
        """Return the seconds from the first frame to each of those that the latest iteration has read."""
        return self._pass.times()


def _decode(path: Path, indices: list[int], keep: Keep) -> tuple[VideoPass, dict[int, np.ndarray]]:
    """Decode and check a complete file; return the frames at these positions, as `keep` returns them."""
    video, to_rgb, wanted = VideoPass(path), RgbConverter(), set(indices)
    return video, {index: keep(to_rgb(frame)) for index, frame in enumerate(video.frames()) if index in wanted}


class VideoPass:
    """One checked pass over a file, and what it has found so far."""

    container: str  # FFmpeg's name of the format, such as `mov,mp4,m4a,3gp,3g2,mj2`
    codec: str  # such as `h264`
    pixel_format: str  # such as `yuv420p`
    size: tuple[int, int]  # height and width of an upright frame

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamps: list[int | None] = []  # of each frame, in units of `time_base`
        self.counts: Counter[str] = Counter()

    def frames(self) -> Generator[av.VideoFrame, None, None]:
        """Yield every frame that is shown, in order."""
        size = None
        with closing(self.packets()) as packets:
            for packet in packets:
                if not packet.size and packet.pts is not None:  # Theora's sign for the frame before, shown longer
                    continue
                try:
                    decoded = packet.decode()
                except av.FFmpegError as error:
                    raise self._not_intact(f"damage near frame {len(self.stamps)} ({os_reason(error)})") from error
                for frame in decoded:
                    if frame.is_corrupt:
                        raise self._not_intact(f"damage near frame {len(self.stamps)}")
                    size = size or (frame.height, frame.width)
                    if size != (frame.height, frame.width):
                        raise LilaError(
                            f"{self.path}: expected frames of one size, found {size[1]}×{size[0]} and, from frame "
                            f"{len(self.stamps)} on, {frame.width}×{frame.height}; cut the video where its size changes"
                        )
                    self.size = size if round(frame.rotation / 90) % 2 == 0 else size[::-1]
                    self.stamps.append(frame.pts)
                    self.counts["key frames"] += frame.key_frame
                    yield frame
        if not self.stamps:
            raise LilaError(f"{self.path}: expected a video, found one without a single frame; {REMEDY}")

    def packets(self) -> Generator[av.Packet, None, None]:
        """Yield the packets of the video, and raise LilaError if there are fewer than the file announces."""
        stamps, end = list[int](), 0
        with open_container(self.path) as container:
            stream = video_stream(container, self.path)
            self.rate, self.time_base = float(stream.average_rate or 25), float(stream.time_base or 1)
            try:
                for packet in container.demux(stream):
                    self.counts["packets"] += bool(packet.size)
                    self.counts["hidden"] += packet.is_discard
                    self.counts["marked as key frames"] += packet.is_keyframe and not packet.is_discard
                    if packet.pts is not None:
                        stamps.append(packet.pts)
                        end = max(end, packet.pts + (packet.duration or 0))
                    yield packet
            except av.FFmpegError as error:
                raise self._not_intact(f"one cut short ({os_reason(error)})") from error
            self.container, self.codec = container.format.name, stream.codec_context.codec.canonical_name
            self.pixel_format = stream.codec_context.pix_fmt or ""
            count = self.counts["packets"]
            announced = len(stream.index_entries) if "mp4" in self.container else 0  # others have no full index
            spacing = (max(stamps) - min(stamps)) * self.time_base / count if stamps else 0
            seconds, length = end * self.time_base, _announced_seconds(container, stream)
            if count < announced:
                raise self._not_intact(f"{count} of the {announced} frames it announces")
            if count and seconds + 0.1 + 2 * spacing < length:
                raise self._not_intact(f"{seconds:.1f} of the {length:.1f} seconds it announces")

    @property
    def edited(self) -> bool:
        """Whether an edit list hides frames of the file."""
        return self.counts["hidden"] > 0 or ("mp4" in self.container and self.counts["packets"] != len(self.stamps))

    def times(self) -> Float64[np.ndarray, " n"]:
        ticks = np.array([0 if stamp is None else stamp for stamp in self.stamps], np.int64)
        # Matroska rounds to milliseconds, so that two frames may have one time stamp
        if None in self.stamps or np.any(np.diff(ticks) < 0) or ticks[0] == ticks[-1]:  # no usable time stamps
            return np.arange(len(self.stamps)) / self.rate
        return (ticks - ticks[0]) * self.time_base  # a transport stream begins at any time

    def _not_intact(self, found: str) -> LilaError:
        return LilaError(f"{self.path}: expected an intact video, found {found}; {REMEDY}")


class RgbConverter:
    """Frames of the decoder to upright RGB, uint8 y x 3, by FFmpeg's filters with the defaults of its command."""

    def __init__(self) -> None:
        self._graph, self._input = Graph(), ""

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "y x 3"]:
        if (given := f"{frame.format.name} {frame.width} {frame.height}") != self._input:
            self._graph, self._input = Graph(), given
            self._graph.threads = 1
            source = self._graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
            )
            self._graph.link_nodes(source, self._graph.add("format", "rgb24"), self._graph.add("buffersink"))
            self._graph.configure()
        self._graph.push(frame)
        return np.ascontiguousarray(np.rot90(self._graph.pull().to_ndarray(), k=round(frame.rotation / 90)))


def open_container(path: Path) -> av.container.InputContainer:
    """Open a local file with PyAV, FFmpeg's own messages silenced."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise LilaError(f"{path}: expected a video file, found {found}; check the path")
    if path.stat().st_size == 0:
        raise LilaError(f"{path}: expected a video, found an empty file; {REMEDY}")
    av.logging.set_level(av.logging.PANIC)
    try:
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, ValueError) as error:
        raise LilaError(
            f"{path}: expected a video, found a file that cannot be opened ({os_reason(error)}); {REMEDY}"
        ) from error


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """Return the first video stream that is not a cover picture, set to decode in one thread.

    FFmpeg's own threads log through Python and can wait for a lock that the reading thread holds while it waits for
    them: on damaged files, reading hung.
    """
    for stream in container.streams.video:
        if "attached_pic" in str(stream.disposition):
            continue
        if stream.codec_context is None:
            raise LilaError(f"{path}: expected a video, found one in a format that no decoder here knows; {REMEDY}")
        check_pixels(path, stream.codec_context.width * stream.codec_context.height)
        stream.codec_context.thread_count = 1
        return stream
    held = sorted({str(stream.type) for stream in container.streams}) or ["nothing"]
    raise LilaError(f"{path}: expected a video, found only {' and '.join(held)} in it; {REMEDY}")


def _announced_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Return when this stream ends by the header of an AVI, Matroska or FLV file, from time 0; 0.0 where it is silent.

    Matroska: the container's length includes a longer sound track, and the stream's tag may be a leftover of an earlier
    file: the shorter of the two is used.
    """
    if container.format.name == "avi":
        return float(stream.frames * (stream.time_base or 0))
    total = (container.duration or 0) / 1_000_000
    if tag := re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = (float(part) for part in tag.groups())
        return min(3600 * hours + 60 * minutes + seconds, total)
    alone = container.format.name.startswith(("matroska", "flv")) and len(container.streams) == 1
    return 0.9 * total if alone else 0.0
