"""A video file as a `FrameReader`: which decoder reads it, and the guards around each.

decord is exact on H.264 and VP9 in MP4 and Matroska and applies a rotation; but it returns wrong frames of HEVC and of
MPEG transport streams after a seek and of MPEG-4 with B-frames, counts frames that an edit list hides, and repeats a
last frame it cannot have. torchcodec is exact on all of these but transport streams, where it loses the last frames.
Both trust a file that marks steps of an intra refresh as key frames. PyAV is exact where it decodes in order. So each
reads what it is known to read right, and PyAV the rest.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from lila_cues.decoding.decord_reader import EXACT_CODECS, EXACT_CONTAINERS, EXACT_PIXELS, DecordReader
from lila_cues.decoding.pyav_reader import PyavReader
from lila_cues.decoding.reader import FrameReader
from lila_cues.decoding.survey import Survey, survey
from lila_cues.decoding.torchcodec_reader import INDEXED_CONTAINERS, TorchcodecReader, require_torchcodec
from stores.errors import LilaError

DECODERS = ("decord", "pyav", "torchcodec")


def open_video(path: Path, decoder: str = "decord") -> FrameReader:
    """A reader of the file's frames; `decoder` is one of `DECODERS`, and PyAV stands in where it is not exact."""
    path = Path(path)
    found = survey(path)
    reader = _seeking(path, decoder, found)
    return reader if reader is not None and reader.agrees else PyavReader(path, found)


def require_decoder(name: str) -> None:
    """Refuse a decoder that is unknown or not installed, before it fails on each file in turn."""
    if name not in DECODERS:
        raise LilaError(
            f"expected a decoder among {', '.join(DECODERS)}, found {name!r}; pass one of these with --decoder"
        )
    if name == "torchcodec":
        require_torchcodec()


def _seeking(path: Path, decoder: str, found: Survey) -> DecordReader | TorchcodecReader | None:
    """The reader asked for, where it is known to be exact on such a file."""
    if decoder == "torchcodec":
        require_torchcodec()
        return TorchcodecReader(path, found) if torchcodec_fits(found) else None
    return DecordReader(path, found) if decoder == "decord" and decord_fits(found) else None


def decord_fits(found: Survey) -> bool:
    """Whether decord is installed and known to be exact on such a file."""
    known = found.codec in EXACT_CODECS and found.pixel_format in EXACT_PIXELS
    known = known and found.container.startswith(EXACT_CONTAINERS)
    return known and found.seekable and not found.edited and find_spec("decord") is not None


def torchcodec_fits(found: Survey) -> bool:
    """Whether torchcodec is known to be exact on such a file."""
    return found.seekable and found.container.startswith(INDEXED_CONTAINERS)


def decoder_version(decoder: str) -> str:
    """For the provenance: the decoder asked for and PyAV, which surveys every file and stands in."""
    packages = {"decord": ("decord", "av"), "pyav": ("av",), "torchcodec": ("torchcodec", "av")}[decoder]
    return " + ".join(f"{name} {_version(name)}" for name in packages)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
