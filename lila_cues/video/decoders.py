"""decord and torchcodec in place of PyAV: decoders that seek, each used only on files on which it is exact.

decord is exact on H.264 and VP9 in MP4 and Matroska and applies a rotation; but it returns wrong frames of HEVC and of
MPEG transport streams after a seek and of MPEG-4 with B-frames, counts frames that an edit list hides, and repeats a
last frame that it cannot decode. torchcodec is exact on all of these except transport streams, of which it loses the
last frames. Both trust a file that marks steps of an intra refresh as key frames.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_cues.video.reader import VideoPass

EXACT = {
    "decord": "H.264 or VP9 in 4:2:0 with even sides, in MP4 or Matroska, without edit list or intra refresh",
    "torchcodec": "MP4, Matroska or AVI without intra refresh",
}
AT_ONCE = 4  # frames as decoded in memory, per clip


def require_decoder(name: str) -> None:
    """Raise LilaError for a decoder that is not installed, before it fails on each file in turn."""
    if name == "torchcodec":
        require_torchcodec()
    elif name == "decord" and find_spec("decord") is None:
        raise LilaError("expected decord for --decoder decord, found none; `pip install decord`, or choose pyav")


def decoder_version(decoder: str) -> str:
    """Return the versions, for the provenance, of the decoder and of PyAV, which checks every file."""
    versions = []
    for package in ("av",) if decoder == "pyav" else (decoder, "av"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} absent")
    return " + ".join(versions)


def require_exact(decoder: str, video: VideoPass) -> None:
    """Raise LilaError for a file on which a decoder is known to return wrong frames."""
    matroska_or_mp4 = video.container.startswith(("mov,mp4", "matroska"))
    exact = video.counts["marked as key frames"] <= video.counts["key frames"]  # steps of an intra refresh are none
    if decoder == "decord":
        exact &= matroska_or_mp4 and video.codec in ("h264", "vp9") and video.pixel_format in ("yuv420p", "yuvj420p")
        exact &= not video.edited and not any(side % 2 for side in video.size)
    else:
        exact &= matroska_or_mp4 or video.container == "avi"
    if not exact:
        edited = " with an edit list" if video.edited else ""
        found = f"{video.codec}, {video.pixel_format}, {video.size[1]}×{video.size[0]} in {video.container}{edited}"
        raise LilaError(
            f"{video.path}: expected a file on which {decoder} is exact ({EXACT[decoder]}), found {found}; pass "
            "--decoder pyav"
        )


def read_frames(
    decoder: str, path: Path, n_frames: int, indices: list[int], keep: Callable[[np.ndarray], np.ndarray]
) -> dict[int, np.ndarray] | None:
    """Return frames at ascending positions, as `keep` returns them; None where PyAV has to read them.

    That is where the decoder fails, counts other frames than PyAV, or repeats a frame.
    """
    kept: dict[int, np.ndarray] = {}
    try:
        video: Any
        if decoder == "decord":
            video = load_decord().VideoReader(str(path), num_threads=1)
        else:
            options = {"seek_mode": "exact", "dimension_order": "NHWC", "num_ffmpeg_threads": 1}
            video = require_torchcodec().VideoDecoder(str(path), **options)
        if len(video) != n_frames:
            return None
        for part in (indices[start : start + AT_ONCE] for start in range(0, len(indices), AT_ONCE)):
            decord = decoder == "decord"
            frames = video.get_batch(part).asnumpy() if decord else video.get_frames_at(part).data.numpy()
            # equal frames: a still picture, or one that decord could not decode and replaced by the one before
            if any(np.array_equal(one, other) for one, other in pairwise(frames)):
                return None
            kept |= {index: keep(frame) for index, frame in zip(part, frames, strict=True)}
    except LilaError:
        raise
    except Exception:  # of any kind; one of `keep` is raised again in PyAV's pass
        return None
    return kept


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


def require_torchcodec() -> ModuleType:
    """Import torchcodec's decoders; LilaError with the remedy where they do not load."""
    try:
        from torchcodec import decoders
    except (ImportError, RuntimeError, OSError) as error:
        raise LilaError(
            "expected torchcodec with FFmpeg's shared libraries for --decoder torchcodec, found none that loads; "
            "`pip install 'lila-pixels[torchcodec]'` and install FFmpeg of the system (apt install ffmpeg), or choose "
            "--decoder pyav"
        ) from error
    return decoders
