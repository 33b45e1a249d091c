"""One pass over a video before its frames are used: how many there are, when each is shown, what is damaged.

A container's frame count is a promise: it includes frames that an edit list hides and frames that a truncated copy
lost, and a decoder given a flipped bit conceals the damage and returns a picture. So the file is decoded once, without
converting a pixel, and every frame is counted and checked.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from stores.errors import LilaError

if TYPE_CHECKING:
    import av

REMEDY = "copy it again or take it out of the folder"


@dataclass(frozen=True)
class VideoProbe:
    """What a video file holds, measured by decoding it."""

    container: str  # FFmpeg's name of the format, such as `mov,mp4,m4a,3gp,3g2,mj2`
    codec: str  # such as `h264`
    pixel_format: str  # such as `yuv420p`
    times: Float64[np.ndarray, " n"]  # seconds from the first frame, ascending, one per frame that is shown
    edited: bool  # an edit list hides frames of the file
    seekable: bool  # every packet marked as a key frame is one; steps of an intra refresh are not, and decode wrong


def probe(path: Path) -> VideoProbe:
    """Decode the file once, in order.

    Raises:
        LilaError: not a video, damaged, cut short, or with frames of more than one size.
    """
    if not path.is_file():
        raise LilaError(
            f"{path}: expected a video file, found {'a folder' if path.is_dir() else 'nothing'}; check the path"
        )
    if path.stat().st_size == 0:
        raise LilaError(f"{path}: expected a video, found an empty file; {REMEDY}")
    with open_container(path) as container:
        stream = video_stream(container, path)
        stamps, sizes, counts = _decode(container, stream, path)
        if not stamps:
            raise LilaError(f"{path}: expected a video, found one without a single frame; {REMEDY}")
        if len(sizes) > 1:
            found = " and ".join(f"{width}×{height}" for height, width in sorted(sizes)[:3])
            raise LilaError(f"{path}: expected frames of one size, found {found}; cut the video where its size changes")
        if None in stamps or np.any(np.diff(np.array(stamps, np.int64)) <= 0):  # no usable time stamps
            times = np.arange(len(stamps)) / float(stream.average_rate or 25)
        else:  # a transport stream begins at any time
            ticks = np.array(stamps, np.int64)
            times = (ticks - ticks[0]) * float(stream.time_base or 1)
        announced = len(stream.index_entries) if "mp4" in container.format.name else 0  # others have no full index
        seconds = _announced_seconds(container, stream)
        found = ""
        if counts["damaged"]:
            found = f"{counts['damaged']} of its {len(times)} frames damaged"
        elif counts["packets"] < announced:
            found = f"{counts['packets']} of the {announced} frames it announces"
        elif times[-1] + 0.1 + 2 * times[-1] / len(times) < seconds:
            found = f"{times[-1]:.1f} of the {seconds:.1f} seconds it announces"
        if found:
            raise LilaError(f"{path}: expected an intact video, found {found}; {REMEDY}")
        return VideoProbe(
            container=container.format.name,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=stream.codec_context.pix_fmt or "",
            times=times,
            edited=counts["hidden"] > 0 or (announced > 0 and counts["packets"] != len(stamps)),
            seekable=counts["marked keys"] <= counts["keys"],
        )


def open_container(path: Path) -> av.container.InputContainer:
    """Open a local file with PyAV, FFmpeg's own messages silenced."""
    import av

    av.logging.set_level(av.logging.PANIC)
    try:
        return av.open(str(path), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, ValueError) as error:
        raise LilaError(
            f"{path}: expected a video, found a file that cannot be opened ({_reason(error)}); {REMEDY}"
        ) from error


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """Return the first video stream that is not a cover picture, set to decode in one thread."""
    for stream in container.streams.video:
        if "attached_pic" in str(stream.disposition):
            continue
        if stream.codec_context is None:
            raise LilaError(f"{path}: expected a video, found one in a format that no decoder here knows; {REMEDY}")
        stream.codec_context.thread_count = 1
        return stream
    held = sorted({str(stream.type) for stream in container.streams}) or ["nothing"]
    raise LilaError(f"{path}: expected a video, found only {' and '.join(held)} in it; {REMEDY}")


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream, path: Path
) -> tuple[list[int | None], set[tuple[int, int]], Counter[str]]:
    """Return each frame's time stamp, the sizes (height, width) that occur, and counts of packets and frames."""
    import av

    stamps: list[int | None] = []
    sizes: set[tuple[int, int]] = set()
    counts: Counter[str] = Counter()
    found = "one cut short"
    try:
        for packet in container.demux(stream):
            counts["packets"] += bool(packet.size)
            counts["hidden"] += packet.is_discard
            counts["marked keys"] += packet.is_keyframe and not packet.is_discard
            found = f"damage near frame {len(stamps)}"
            for frame in packet.decode():
                stamps.append(frame.pts)
                sizes.add((frame.height, frame.width))
                counts["damaged"] += frame.is_corrupt
                counts["keys"] += frame.key_frame
            found = "one cut short"
    except av.FFmpegError as error:
        raise LilaError(f"{path}: expected an intact video, found {found} ({_reason(error)}); {REMEDY}") from error
    return stamps, sizes, counts


def _announced_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Return the length that Matroska's header announces for this stream, 0.0 where it announces none.

    The container's own length includes a longer sound track, and the stream's tag may be a leftover of an earlier
    file: the shorter of the two is used.
    """
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))
    if tag is None or not container.duration:
        return 0.0
    hours, minutes, seconds = (float(part) for part in tag.groups())
    return min(3600 * hours + 60 * minutes + seconds, container.duration / 1e6)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()
