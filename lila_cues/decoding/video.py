"""A video file as a `FrameReader`: which decoder reads it, and the guards around each.

decord is exact on H.264 and VP9 in MP4 and Matroska and applies a rotation; but it returns wrong frames of HEVC and of
MPEG transport streams after a seek and of MPEG-4 with B-frames, counts frames that an edit list hides, and repeats a
last frame it cannot have. PyAV is exact where it decodes in order. So decord reads what it is known to read right, and
PyAV the rest.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from lila_cues.decoding.decord_reader import EXACT_CODECS, EXACT_CONTAINERS, EXACT_PIXELS, DecordReader
from lila_cues.decoding.pyav_reader import PyavReader
from lila_cues.decoding.reader import FrameReader
from lila_cues.decoding.survey import Survey, survey
from lila_cues.decoding.torchcodec_reader import TorchcodecReader
from stores.errors import LilaError

DECODERS = ("decord", "pyav", "torchcodec")


def open_video(path: Path, decoder: str = "decord") -> FrameReader:
    """A reader of the file's frames; `decoder` is one of `DECODERS`, and PyAV stands in where decord is not exact."""
    path = Path(path)
    if decoder not in DECODERS:
        raise LilaError(f"expected a decoder among {', '.join(DECODERS)}, found {decoder!r}; pass one of these")
    found = survey(path)
    if decoder == "torchcodec":
        return TorchcodecReader(path, found)
    if decoder == "decord" and decord_fits(found):
        reader = DecordReader(path, found)
        if reader.agrees:
            return reader
    return PyavReader(path, found)


def decord_fits(found: Survey) -> bool:
    """Whether decord is installed and known to be exact on such a file."""
    known = found.codec in EXACT_CODECS and found.pixel_format in EXACT_PIXELS
    known = known and found.container.startswith(EXACT_CONTAINERS)
    return known and not found.edited and find_spec("decord") is not None


def decoder_version(decoder: str) -> str:
    """For the provenance: the decoder asked for and PyAV, which surveys every file and stands in."""
    packages = {"decord": ("decord", "av"), "pyav": ("av",), "torchcodec": ("torchcodec", "av")}[decoder]
    return " + ".join(f"{name} {_version(name)}" for name in packages)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
