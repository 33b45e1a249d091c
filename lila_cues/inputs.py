"""The images and videos that a command is given: files, folders, globs; and the names of what is made of them."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stores.errors import LilaError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg"})
SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES


@dataclass(frozen=True)
class InputFile:
    """A file, and where its results go below the output folder (without a suffix)."""

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        """By the suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def named(sources: Iterable[Path]) -> list[InputFile]:
    """Whatever images and videos the sources name: files, all files below folders, globs; each once."""
    return list(dict.fromkeys(medium for source in sources for medium in _of_source(source)))


def media(sources: Iterable[Path]) -> list[InputFile]:
    """The same, refused where two files would share a place."""
    found = named(sources)
    taken: dict[Path, Path] = {}
    for medium in found:
        other = taken.setdefault(medium.name, medium.path)
        if other != medium.path:
            raise LilaError(f"{other} and {medium.path} would both be written as {medium.name}; rename one of them")
    return found


def _of_source(source: Path) -> list[InputFile]:
    if source.is_dir():
        files = [p for p in sorted(source.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
        return _named(files, source, f"no image or video under {source}")
    if source.exists():
        if source.suffix.lower() not in SUFFIXES:
            kind = source.suffix or "nameless"
            raise LilaError(f"expected an image or a video, found a {kind} file at {source}")
        return [InputFile(source, Path(source.stem))]
    if not glob.has_magic(str(source)):
        raise LilaError(f"no file or folder at {source}")
    files = [Path(p) for p in sorted(glob.glob(str(source), recursive=True))]
    files = [p for p in files if p.suffix.lower() in SUFFIXES and p.is_file()]
    return _named(files, _fixed_part(source), f"no image or video matches {source}")


def _named(files: Sequence[Path], root: Path, none: str) -> list[InputFile]:
    if not files:
        raise LilaError(none)
    return [InputFile(path, path.relative_to(root).with_suffix("")) for path in files]


def _fixed_part(pattern: Path) -> Path:
    """The folder in front of a pattern's first wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed
