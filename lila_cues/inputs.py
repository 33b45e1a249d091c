"""The images and videos that a command is given, as files, folders or globs, and the names of their results."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stores.errors import LilaError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg"})


@dataclass(frozen=True)
class InputFile:
    """An image or video, and the path of its results below the output folder (without a suffix)."""

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def list_inputs(sources: Iterable[Path], unique_names: bool = True) -> list[InputFile]:
    """List the images and videos of files, folders (with all below them) and globs, each once.

    Raises:
        LilaError: a source that is missing, of another kind or without images and videos; with `unique_names`, two
            files whose results would have the same name.
    """
    files = list(dict.fromkeys(file for source in sources for file in _list_source(source)))
    taken: dict[Path, Path] = {}
    for file in files:
        other = taken.setdefault(file.name, file.path)
        if unique_names and other != file.path:
            raise LilaError(f"{other} and {file.path} would both be written as {file.name}; rename one of them")
    return files


def _list_source(source: Path) -> list[InputFile]:
    if source.is_dir():
        root, paths, problem = source, sorted(source.rglob("*")), f"no image or video under {source}"
    elif source.exists():
        if not _is_supported(source):
            kind = source.suffix or "nameless"
            raise LilaError(f"expected an image or a video, found a {kind} file at {source}")
        return [InputFile(source, Path(source.stem))]
    elif glob.has_magic(str(source)):
        root, problem = Path(source.anchor), f"no image or video matches {source}"
        for part in source.relative_to(source.anchor).parts:  # the folder before the first wildcard
            if glob.has_magic(part):
                break
            root /= part
        paths = [Path(path) for path in sorted(glob.glob(str(source), recursive=True))]
    else:
        raise LilaError(f"no file or folder at {source}")
    paths = [path for path in paths if _is_supported(path) and path.is_file()]
    if not paths:
        raise LilaError(problem)
    return [InputFile(path, path.relative_to(root).with_suffix("")) for path in paths]


def _is_supported(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
