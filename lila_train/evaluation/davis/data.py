"""DAVIS folders as their authors ship them: a list of sequences, frames as JPEG, masks as PNG.

2017: `ImageSets/2017/val.txt`, indexed masks (0 background, n object n, 255 void).
2016: `ImageSets/480p/val.txt`, masks of one object (0 or 255).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lila_cues.images import read_mask
from lila_train.evaluation.davis.metrics import VOID
from lila_train.model.resize import Labels
from stores.errors import LilaError

FRAMES = Path("JPEGImages/480p")
MASKS = Path("Annotations/480p")


@dataclass(frozen=True)
class Layout:
    """One of the two forms in which DAVIS is distributed."""

    name: str
    lists: str
    to_labels: Callable[[UInt8[np.ndarray, "h w"], Path], Labels]


@dataclass(frozen=True)
class DavisSequence:
    """One video: its frames and their masks, in order, with equal stems."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


@dataclass(frozen=True)
class DavisData:
    """A DAVIS folder, listed and checked; pictures are read when they are asked for."""

    root: Path
    layout: Layout
    sequences: tuple[DavisSequence, ...]

    def labels(self, mask: Path) -> Labels:
        """The object ids of one mask file: 0 background, n object n, 255 void (2017 only)."""
        return self.layout.to_labels(read_mask(mask), mask)

    @property
    def n_frames(self) -> int:
        """Frames of all sequences together."""
        return sum(len(sequence.frames) for sequence in self.sequences)


def open_davis(root: Path, split: str = "val", limit: int | None = None) -> DavisData:
    """List the first `limit` sequences of a split; LilaError where the folder is not DAVIS or files are missing."""
    layout = _layout_of(root, split)
    list_file = root / layout.lists.format(split=split)
    names = _sequence_names(list_file)
    if not names:
        raise LilaError(f"expected one sequence name per line in {list_file}, found none; list the sequences to score")
    return DavisData(root, layout, tuple(_sequence(root, name, list_file) for name in names[:limit]))


def _indexed(stored: UInt8[np.ndarray, "h w"], path: Path) -> Labels:
    return stored


def _binary(stored: UInt8[np.ndarray, "h w"], path: Path) -> Labels:
    odd = stored[(stored != 0) & (stored != VOID)]
    if odd.size:
        raise LilaError(
            f"expected only 0 and 255 in a mask of the 2016 layout, found {odd[0]} in {path}; "
            "for indexed masks list the sequences in ImageSets/2017/val.txt"
        )
    return (stored == VOID).astype(np.uint8)


LAYOUTS = (
    Layout("DAVIS-2017", "ImageSets/2017/{split}.txt", _indexed),
    Layout("DAVIS-2016", "ImageSets/480p/{split}.txt", _binary),
)


def _layout_of(root: Path, split: str) -> Layout:
    for layout in LAYOUTS:
        if (root / layout.lists.format(split=split)).is_file():
            return layout
    wanted = " or ".join(layout.lists.format(split=split) for layout in LAYOUTS)
    raise LilaError(
        f"expected a DAVIS folder with {wanted}, found neither in {root}; pass the folder that holds JPEGImages"
    )


def _sequence_names(list_file: Path) -> list[str]:
    """A line is a name, or as in DAVIS 2016 the paths of a frame and its mask."""
    firsts = [line.split()[0] for line in list_file.read_text().splitlines() if line.strip()]
    return list(dict.fromkeys(Path(first).parent.name if "/" in first else first for first in firsts))


def _sequence(root: Path, name: str, list_file: Path) -> DavisSequence:
    frames, masks = root / FRAMES / name, root / MASKS / name
    for folder in (frames, masks):
        if not folder.is_dir():
            raise LilaError(f"expected the folder {folder} of the sequence {name} that {list_file} lists, found none")
    stems = {path.stem for path in frames.glob("*.jpg")} | {path.stem for path in masks.glob("*.png")}
    _check_numbering(stems, frames)
    files = tuple((frames / f"{stem}.jpg", masks / f"{stem}.png") for stem in sorted(stems))
    for path in (path for pair in files for path in pair):
        if not path.is_file():
            raise LilaError(f"expected a frame and a mask for every number, found no {path}; restore the file")
    return DavisSequence(name, tuple(frame for frame, _ in files), tuple(mask for _, mask in files))


def _check_numbering(stems: set[str], folder: Path) -> None:
    if not stems:
        raise LilaError(f"expected frames 00000.jpg, 00001.jpg, … in {folder}, found none")
    if odd := sorted(stem for stem in stems if not stem.isdecimal()):
        raise LilaError(f"expected files named by frame number in {folder}, found {odd[0]}; rename or remove it")
    numbers = {int(stem) for stem in stems}
    if gaps := sorted(set(range(max(numbers) + 1)) - numbers):
        raise LilaError(f"expected frames numbered from 0 without a gap in {folder}, found no frame {gaps[0]:05d}")
