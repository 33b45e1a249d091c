"""Small videos whose every frame says which one it is: a barcode under a strip, red on the left, blue on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 9
TICK = Fraction(1, 3000)
QUIET = {"libx265": {"x265-params": "log-level=none"}}


@dataclass(frozen=True)
class Clip:
    """How a barcoded video is made; `options` are the encoder's, `container` those of the file format.

    `ticks`: when each frame is shown, in 1/3000 s; 30 frames per second if None.
    """

    frames: int = 40
    codec: str = "libx264"
    gop: int = 12
    b_frames: int = 2
    size: tuple[int, int] = (64, 96)
    ticks: Sequence[int] | None = None
    rotation: int = 0
    pixels: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)


def write(path: Path, clip: Clip = Clip()) -> Path:
    """Encode `clip` at `path`; the suffix chooses the container."""
    with av.open(str(path), "w", options=clip.container) as container:
        stream = container.add_stream(clip.codec, rate=30, options=QUIET.get(clip.codec, {}) | clip.options)
        stream.height, stream.width = clip.size
        stream.pix_fmt, stream.gop_size = clip.pixels, clip.gop
        stream.codec_context.max_b_frames = clip.b_frames
        stream.codec_context.time_base = TICK
        if clip.rotation:
            stream.set_display_rotation(clip.rotation)
        for index in range(clip.frames):
            frame = av.VideoFrame.from_ndarray(picture(index, clip.size), format="rgb24")
            frame.pts, frame.time_base = (clip.ticks or range(0, 100 * clip.frames, 100))[index], TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def picture(index: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """Frame `index`: y, x, RGB."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 4, : width // 2, 0] = image[: height // 4, width // 2 :, 2] = 255
    for bit in range(BITS):
        image[height // 4 :, bit * width // BITS : (bit + 1) * width // BITS] = 255 * (index >> bit & 1)
    return image


def number(image: np.ndarray) -> int:
    """The index that a frame carries, -1 where the frame is not upright."""
    height, width = image.shape[:2]
    red, blue = image[height // 8, width // 4].astype(int), image[height // 8, 3 * width // 4].astype(int)
    if red[0] < 128 or red[2] > 128 or blue[2] < 128 or blue[0] > 128:
        return -1
    middles = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(int(image[5 * height // 8, x].mean() > 128) << bit for bit, x in enumerate(middles))


def numbers(images: np.ndarray) -> list[int]:
    return [number(image) for image in images]


def cut_and_copy(source: Path, target: Path, start: int) -> Path:
    """`source` from frame `start` on, not encoded anew: earlier frames of its group stay, hidden by an edit list."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        shown = sorted(packet.pts for packet in packets)
        first = max(i for i, packet in enumerate(packets) if packet.is_keyframe and packet.pts <= shown[start])
        for packet in packets[first:]:
            packet.pts, packet.dts, packet.stream = packet.pts - shown[start], packet.dts - shown[start], copy
            new.mux(packet)
    return target


def insert_packet(path: Path, content: bytes, index: int = 20) -> Path:
    """A copy of a video with one more packet."""
    target = path.with_stem(path.stem + "_more")
    with av.open(str(path)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        packets.insert(index, av.Packet(content))
        for position, packet in enumerate(packets):
            packet.stream, packet.time_base = copy, stream.time_base
            packet.pts = packet.dts = position
            new.mux(packet)
    return target


def zero_packet(path: Path, index: int) -> Path:
    """Overwrite most of one packet with zeros in place."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][index]
        assert packet.pos is not None
        start, end = packet.pos + packet.size // 4, packet.pos + packet.size
    data = path.read_bytes()
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    return path


def write_sound(path: Path, seconds: float = 0.5) -> Path:
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, int(16000 * seconds)), np.float32), format="fltp", layout="mono"
        )
        silence.rate, silence.pts = 16000, 0
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return path
