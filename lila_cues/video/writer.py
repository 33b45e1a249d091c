"""Rendered frames as a video file, and back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

FRAME_RATE = 24
KEY_FRAME_EVERY = 12
# Without mbtree: with it, x264's assembly gave other bytes for the same frames from run to run.
QUALITY = {"libx264": {"crf": "17", "preset": "veryfast", "x264-params": "mbtree=0"}, "mpeg4": {"qscale": "2"}}


def video_codec() -> str:
    """H.264 where this PyAV can write it, MPEG-4 otherwise."""
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def write_video(path: Path, frames: UInt8[np.ndarray, "frames y x 3"]) -> None:
    """Write RGB frames as an mp4 at 24 frames per second; equal frames give equal bytes (one thread)."""
    codec = video_codec()
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=FRAME_RATE, options=QUALITY[codec])
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FRAME_RATE)
        stream.codec_context.gop_size = KEY_FRAME_EVERY
        stream.codec_context.thread_count = 1
        for rgb in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))


def read_video(path: Path) -> UInt8[np.ndarray, "frames y x 3"]:
    """All frames of a video that `write_video` wrote, in order."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
