"""What every source of clips offers, and where its files are looked for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

from lila_cues.video.decoders import FrameReader
from stores.errors import LilaError


@runtime_checkable
class Source(Protocol):
    """Clips by id. Listing happens once, in the process that plans; workers only open."""

    name: str
    root: Path

    def clips(self) -> Sequence[str]:
        """All clip ids, in an order that depends on the files alone."""

    def open(self, clip_id: str) -> FrameReader:
        """A reader of that clip; a `LilaError` with the reason where it cannot be read."""


@dataclass(frozen=True)
class DatasetOptions:
    """What a source may need beside its folder. `seed` is that of the demo's scenes."""

    decoder: str = "decord"
    seed: int = 0


def find_root(name: str, root: Path | None = None, made_here: bool = False) -> Path:
    """The folder of a data set: `root`, else `$LILA_DATA/NAME`, else `data/NAME`.

    `made_here`: the folder need not exist, the source fills it.
    """
    if root is not None:
        places = [Path(root)]
    else:
        places = [Path(os.environ["LILA_DATA"]) / name] if os.environ.get("LILA_DATA") else []
        places.append(Path("data") / name)
    found = next((place for place in places if place.is_dir()), places[0] if made_here else None)
    if found is None:
        looked = " and ".join(str(place) for place in places)
        hint = "" if root is not None or os.environ.get("LILA_DATA") else " (LILA_DATA is not set)"
        raise LilaError(
            f"expected the data set {name}, found no folder at {looked}{hint}; "
            f"pass --root with the folder that holds it, or set LILA_DATA to the folder above {name}/"
        )
    return found


def inside(root: Path, clip_id: str) -> Path:
    """The file or folder that a clip id names; ids are relative and do not climb."""
    relative = PurePosixPath(clip_id)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise LilaError(f"expected a clip id within {root}, found {clip_id!r}; ids are paths below that folder")
    return root / relative


def walk_files(root: Path, suffixes: frozenset[str]) -> Iterator[str]:
    """Paths below `root`, with `/`, of the visible files that end so, folder by folder in the order of their names."""
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(folder).relative_to(root).as_posix()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                yield name if base == "." else f"{base}/{name}"


def refuse_folder(error: OSError) -> None:
    """A folder that cannot be listed would be left out in silence."""
    raise LilaError(
        f"expected a folder of the data set at {error.filename}, found one that cannot be listed "
        f"({(error.strerror or str(error)).lower()}); change its permissions or move it away"
    ) from error


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sorting key by which frame_10 follows frame_9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
