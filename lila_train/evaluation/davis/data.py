"""DAVIS folders as published: a list of sequences, frames as JPEG, masks as PNG.

2017: `ImageSets/2017/val.txt`, indexed masks (0 background, n object n, 255 void).
2016: `ImageSets/480p/val.txt`, masks of one object (0 or 255).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lila_cues.images import read_mask
from lila_train.evaluation.davis.metrics import VOID
from lila_train.model.resize import Labels
from stores.errors import LilaError

FRAMES = Path("JPEGImages/480p")
MASKS = Path("Annotations/480p")
LISTS = {"DAVIS-2017": "ImageSets/2017/{split}.txt", "DAVIS-2016": "ImageSets/480p/{split}.txt"}


@dataclass(frozen=True)
class DavisSequence:
    """Frames and masks of one video, in order, with equal stems."""

    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


@dataclass(frozen=True)
class DavisData:
    """A DAVIS folder, listed and checked; images are read on demand."""

    root: Path
    layout: str
    sequences: Mapping[str, DavisSequence]

    def labels(self, mask: Path) -> Labels:
        """Return the object ids of one mask file: 0 background, n object n, 255 void (2017 only)."""
        stored = read_mask(mask)
        if self.layout == "DAVIS-2017":
            return stored
        other = stored[(stored != 0) & (stored != VOID)]
        if other.size:
            raise LilaError(
                f"expected only 0 and 255 in a mask of the 2016 layout, found {other[0]} in {mask}; "
                "for indexed masks list the sequences in ImageSets/2017/val.txt"
            )
        return (stored == VOID).astype(np.uint8)


def open_davis(root: Path, split: str = "val", limit: int | None = None) -> DavisData:
    """List the first `limit` sequences of a split; LilaError for another layout, missing or misnumbered files."""
    lists = {layout: root / name.format(split=split) for layout, name in LISTS.items()}
    layout = next((layout for layout, path in lists.items() if path.is_file()), None)
    if layout is None:
        expected = " or ".join(str(path.relative_to(root)) for path in lists.values())
        raise LilaError(
            f"expected a DAVIS folder with {expected}, found neither in {root}; pass the folder that holds JPEGImages"
        )
    list_file = lists[layout]
    # A line is a name, or as in DAVIS 2016 the paths of a frame and its mask.
    entries = [line.split()[0] for line in list_file.read_text().splitlines() if line.strip()]
    names = list(dict.fromkeys(Path(entry).parent.name if "/" in entry else entry for entry in entries))
    if not names:
        raise LilaError(f"expected one sequence name per line in {list_file}, found none; list the sequences to score")
    return DavisData(root, layout, {name: _sequence(root, name, list_file) for name in names[:limit]})


def _sequence(root: Path, name: str, list_file: Path) -> DavisSequence:
    frames, masks = root / FRAMES / name, root / MASKS / name
    for folder in (frames, masks):
        if not folder.is_dir():
            raise LilaError(f"expected the folder {folder} of the sequence {name} that {list_file} lists, found none")
    stems = sorted({path.stem for path in frames.glob("*.jpg")} | {path.stem for path in masks.glob("*.png")})
    if not stems:
        raise LilaError(f"expected frames 00000.jpg, 00001.jpg, … in {frames}, found none")
    for stem in stems:
        if not stem.isdecimal():
            raise LilaError(f"expected files named by frame number in {frames}, found {stem}; rename or remove it")
    numbers = {int(stem) for stem in stems}
    if gaps := sorted(set(range(max(numbers) + 1)) - numbers):
        raise LilaError(f"expected frames numbered from 0 without a gap in {frames}, found no frame {gaps[0]:05d}")
    sequence = DavisSequence(
        tuple(frames / f"{stem}.jpg" for stem in stems), tuple(masks / f"{stem}.png" for stem in stems)
    )
    for path in (*sequence.frames, *sequence.masks):
        if not path.is_file():
            raise LilaError(f"expected a frame and a mask for every number, found no {path}; restore the file")
    return sequence
