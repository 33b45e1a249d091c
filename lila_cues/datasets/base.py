"""The interface of a data set, and the walk over its files."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lila_cues.video.decoders import FrameReader
from stores.errors import LilaError


@dataclass(frozen=True)
class DatasetOptions:
    """Settings beside the folder: the video decoder, and the seed of the demo's scenes."""

    decoder: str = "decord"
    seed: int = 0


class Dataset(ABC):
    """Clips by id. `clips` runs once, in the process that plans; workers only call `open`."""

    def __init__(self, root: Path, options: DatasetOptions):
        self.root, self.options = root, options

    @abstractmethod
    def clips(self) -> Sequence[str]:
        """Return all clip ids in an order that depends on the files alone; LilaError if there are none."""

    @abstractmethod
    def open(self, clip_id: str) -> FrameReader:
        """Open a clip; LilaError with the reason where it cannot be read."""

    def path(self, clip_id: str) -> Path:
        """Return the file or folder of a clip whose id is its path below `root`; LilaError if it leaves `root`."""
        relative = PurePosixPath(clip_id)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise LilaError(
                f"expected a clip id within {self.root}, found {clip_id!r}; ids are paths below that folder"
            )
        return self.root / relative


def walk_files(root: Path, suffixes: frozenset[str], folder_key: Callable[[str], Any] = str) -> Iterator[str]:
    """Yield the files below `root` that `is_visible` accepts, as paths with "/": a folder's files, then its subfolders.

    Files are in the order of their names, folders in that of `folder_key`; symbolic links are followed.
    """
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse_folder):
        subfolders[:] = sorted((name for name in subfolders if not name.startswith(".")), key=folder_key)
        base = "" if Path(folder) == root else Path(folder).relative_to(root).as_posix() + "/"
        yield from (base + name for name in sorted(files) if is_visible(name, suffixes))


def is_visible(name: str, suffixes: frozenset[str]) -> bool:
    """Return whether a file has one of the suffixes (lower case, with dot) and does not start with a dot."""
    return os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that puts frame_10 after frame_9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _refuse_folder(error: OSError) -> None:
    """Stop `os.walk`, which would otherwise skip the folder silently."""
    raise LilaError(
        f"expected a folder of the data set at {error.filename}, found one that cannot be listed "
        f"({(error.strerror or str(error)).lower()}); change its permissions or move it away"
    ) from error
