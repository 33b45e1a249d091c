"""Video files in: `open_video` for frames by position (stage one), `VideoFrames` for all frames in order.

Each decoder reads the files on which it is known to be exact, and PyAV the rest, decoding in order. decord is exact on
H.264 and VP9 in MP4 and Matroska and applies a rotation; but it returns wrong frames of HEVC and of MPEG transport
streams after a seek and of MPEG-4 with B-frames, counts frames that an edit list hides, and repeats a last frame that
it cannot decode. torchcodec is exact on all of these except transport streams, of which it loses the last frames. Both
trust a file that marks steps of an intra refresh as key frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import av
import numpy as np

from lila_cues.video.decoders import DecordReader, FrameReader, PyavReader, TorchcodecReader, require_torchcodec
from lila_cues.video.probe import probe
from lila_cues.viz.pictures import Picture
from stores.errors import LilaError

DECODERS = ("decord", "pyav", "torchcodec")


def open_video(path: Path, decoder: str = "decord") -> FrameReader:
    """Probe a video and open it with `decoder` (one of `DECODERS`), or with PyAV where that decoder is not exact."""
    path = Path(path)
    probed = probe(path)
    reader = None
    if decoder == "decord":
        reader = DecordReader.open(path, probed)
    elif decoder == "torchcodec":
        reader = TorchcodecReader.open(path, probed)
    return PyavReader(path, probed) if reader is None else reader


def require_decoder(name: str) -> None:
    """Raise LilaError for a decoder that is unknown or not installed, before it fails on each file in turn."""
    if name not in DECODERS:
        raise LilaError(
            f"expected a decoder among {', '.join(DECODERS)}, found {name!r}; pass one of these with --decoder"
        )
    if name == "torchcodec":
        require_torchcodec()


def decoder_version(decoder: str) -> str:
    """Return the versions, for the provenance, of the decoder and of PyAV, which probes every file and stands in."""
    versions = []
    for package in ("av",) if decoder == "pyav" else (decoder, "av"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} absent")
    return " + ".join(versions)


class VideoFrames:
    """The frames of a video in order, as upright RGB, one at a time, so that memory does not grow with its length.

    `rate` is in frames per second; `count` is what the file or its duration announces, None where neither does.
    Iterating raises LilaError where a file breaks off, or ends well before its count: some containers end silently.
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
                only_stream = len(container.streams) == 1  # else the duration may be that of a longer sound track
                self._min_count = round((self.count or 0) * (0.9 if stream.frames or only_stream else 0.5))
        except av.error.FFmpegError as error:
            raise LilaError(f"{path} cannot be read as a video ({error.strerror}); is the file intact?") from error

    def __iter__(self) -> Iterator[Picture]:
        n_frames = 0
        try:
            with av.open(str(self.path)) as container:
                # FFmpeg's own threads log through Python and can wait for a lock that this thread holds while it waits
                # for them: on a damaged file, reading hung. The networks take far longer than one decoding thread.
                container.streams.video[0].codec_context.thread_count = 1
                for frame in container.decode(video=0):
                    n_frames += 1
                    yield np.rot90(frame.to_ndarray(format="rgb24"), (frame.rotation // 90) % 4).copy()
        except av.error.FFmpegError as error:
            raise LilaError(
                f"{self.path} breaks off after {n_frames} frames ({error.strerror}); is the file intact?"
            ) from error
        if not n_frames:
            raise LilaError(f"no frame can be read from {self.path}; is the file intact?")
        if n_frames < self._min_count:
            raise LilaError(f"{self.path} ends after {n_frames} of about {self.count} frames; is the file intact?")
