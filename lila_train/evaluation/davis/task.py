"""DAVIS: its folders as published, and the harness's task of one part per sequence, scored from saved indexed PNGs.

2017: `ImageSets/2017/val.txt`, indexed masks (0 background, n object n, 255 void).
2016: `ImageSets/480p/val.txt`, masks of one object (0 or 255); or `ImageSets/2016/val.txt`, in the distribution of
2017, with all objects of a mask taken as one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lila_cues.images import read_mask, read_stored
from lila_cues.inputs import list_files, natural_order, read_sequences
from lila_cues.viz.pictures import write_label_png
from lila_train.evaluation.davis.metrics import (
    VOID,
    ObjectScore,
    count_objects,
    require_frames,
    score_sequence,
    summarize,
    without_void,
)
from lila_train.evaluation.harness import Task
from lila_train.evaluation.models import GridModel
from lila_train.model.propagation import Propagation
from lila_train.model.resize import Image, Labels, Size, network_size, size_of
from lila_train.outputs import Json
from stores.errors import LilaError

FRAMES = Path("JPEGImages/480p")
MASKS = Path("Annotations/480p")
Frames = Iterable[Image]  # of one video, in order
LISTS = {
    "DAVIS-2017": "ImageSets/2017/val.txt",
    "DAVIS-2016": "ImageSets/480p/val.txt",
    "DAVIS-2016, indexed masks": "ImageSets/2016/val.txt",
}


def open_davis(root: Path, limit: int | None = None, year: int | None = None) -> DavisData:
    """List the first `limit` val sequences of DAVIS-`year`: None is 2017, or 2016 where only that is listed.

    LilaError for another layout, missing or misnumbered files.
    """
    lists = {layout: name for layout, name in LISTS.items() if f"DAVIS-{year or ''}" in layout}
    layout = next((layout for layout, name in lists.items() if (root / name).is_file()), None)
    if layout is None:
        others = [name for name in LISTS.values() if (root / name).is_file()]
        found = f"{' and '.join(others)} of the other year" if others else "none of them"
        remedy = "leave year out, or pass another folder" if others else "pass the folder that holds JPEGImages"
        raise LilaError(
            f"expected a DAVIS folder with {' or '.join(lists.values())}, found {found} in {root}; {remedy}"
        )
    list_file = root / lists[layout]
    names = read_sequences(list_file)
    if not names:
        raise LilaError(f"expected one sequence name per line in {list_file}, found none; list the sequences to score")
    return DavisData(root, layout, {name: _sequence(root, name, list_file) for name in names[:limit]})


def _sequence(root: Path, name: str, list_file: Path) -> DavisSequence:
    frames, masks = root / FRAMES / name, root / MASKS / name
    for folder in (frames, masks):
        if not folder.is_dir():
            raise LilaError(f"expected the folder {folder} of the sequence {name} that {list_file} lists, found none")
    pictures, maps = ({path.stem: path for path in list_files(*of)} for of in ((frames, {".jpg"}), (masks, {".png"})))
    stems = sorted(pictures.keys() | maps, key=natural_order)
    if not stems:
        raise LilaError(f"expected frames 00000.jpg, 00001.jpg, … in {frames}, found none")
    for stem in stems:
        if not stem.isdecimal():
            raise LilaError(f"expected files named by frame number in {frames}, found {stem}; rename or remove it")
    numbers = {int(stem) for stem in stems}
    if gaps := sorted(set(range(max(numbers) + 1)) - numbers):
        raise LilaError(f"expected frames numbered from 0 without a gap in {frames}, found no frame {gaps[0]:05d}")
    images = [pictures.get(stem, frames / f"{stem}.jpg") for stem in stems]
    labels = [maps.get(stem, masks / f"{stem}.png") for stem in stems]
    for path in (*images, *labels):
        if not path.is_file():
            raise LilaError(f"expected a frame and a mask for every number, found no {path}; restore the file")
    return DavisSequence(tuple(images), tuple(labels))


@dataclass(frozen=True)
class DavisSequence:
    """Frames and masks of one video, in order, with equal stems."""

    frames: tuple[Path, ...]
    masks: tuple[Path, ...]


@dataclass(frozen=True)
class DavisData:
    """A DAVIS folder, listed and checked; images are read on demand."""

    root: Path
    layout: str  # one of LISTS
    sequences: Mapping[str, DavisSequence]

    @property
    def year(self) -> int | None:
        """2016, which is named in the id of a result, or None for 2017."""
        return None if self.layout == "DAVIS-2017" else 2016

    def labels(self, mask: Path) -> Labels:
        """Return the object ids of one mask file: 0 background, n object n, 255 void (2017 only)."""
        stored = read_mask(mask)
        if self.layout == "DAVIS-2017":
            return stored
        if self.layout == "DAVIS-2016, indexed masks":
            return (stored != 0).astype(np.uint8)
        other = stored[(stored != 0) & (stored != VOID)]
        if other.size:
            raise LilaError(
                f"expected only 0 and 255 in a mask of the 2016 layout, found {other[0]} in {mask}; "
                "for indexed masks list the sequences in ImageSets/2017/val.txt, or 2016/val.txt to take them as one"
            )
        return (stored == VOID).astype(np.uint8)

    @property
    def about(self) -> dict[str, Any]:
        return {"layout": self.layout, "sequences": list(self.sequences)}

    @property
    def files(self) -> list[Path]:
        return [path for sequence in self.sequences.values() for path in (*sequence.frames, *sequence.masks)]

    @property
    def checks(self) -> list[Callable[[], object]]:
        return [partial(self._check, name) for name in self.sequences]

    def native_size(self) -> Size:
        """Return the size of the first sequence's frames."""
        return size_of(self.reference(next(iter(self.sequences.values()))))

    def reference(self, sequence: DavisSequence) -> Labels:
        """Return the first mask; LilaError where its ids leave out numbers."""
        labels = without_void(self.labels(sequence.masks[0]))
        ids = np.unique(labels[labels > 0]).tolist()
        if ids != list(range(1, len(ids) + 1)):
            raise LilaError(
                f"expected objects numbered from 1 without a gap in {sequence.masks[0]}, found "
                f"{', '.join(map(str, ids))}; a palette was lost where gray levels stand for indices: restore the PNGs"
            )
        return labels

    def _check(self, name: str) -> None:
        """Read a sequence; LilaError for a mask with other ids than the first, and for files of another size."""
        sequence = self.sequences[name]
        require_frames(name, len(sequence.frames))
        reference = self.reference(sequence)
        objects = count_objects(reference, sequence.masks[0])
        for mask in sequence.masks[1:]:
            labels = without_void(self.labels(mask))
            if labels.shape != reference.shape:
                raise LilaError(
                    f"expected masks of the size of the first one, {reference.shape[1]}×{reference.shape[0]}, found "
                    f"{labels.shape[1]}×{labels.shape[0]} in {mask}; restore that file"
                )
            if (largest := int(labels.max())) > objects:
                raise LilaError(
                    f"expected ids up to {objects}, the objects of the first mask, found {largest} in {mask}; correct "
                    "that mask"
                )
        for path in sequence.frames:
            frame = read_stored(path)
            if frame.shape[:2] != reference.shape:
                raise LilaError(
                    f"expected frames of the size of the first mask, {reference.shape[1]}×{reference.shape[0]}, found "
                    f"{frame.shape[1]}×{frame.shape[0]} in {path}; restore that file"
                )


@dataclass(frozen=True)
class FrameSettings:
    """Settings of a protocol that resizes frames as `davis-knn@lila` does, and draws random numbers by a seed."""

    seed: int = 0
    short_side_px: int | None = None  # of the network's input; None: short_side_patches × the encoder's patch size
    short_side_patches: int = 34
    antialias: bool = False  # of frames that are reduced

    def frame_size(self, native: Size, patch_size: int) -> Size:
        """Return the size of the network's input for frames of `native` (height, width) pixels."""
        return network_size(native, patch_size, self.short_side_px or self.short_side_patches * patch_size)


@dataclass(frozen=True)
class DavisTask(Task):
    """What protocols on DAVIS have in common: a part is a sequence."""

    data: DavisData
    rule: FrameSettings | Propagation

    def derived(self, model: GridModel) -> dict[str, Any]:
        """Return the sizes of the first sequence."""
        native = self.data.native_size()
        return {"native_px": list(native), "frame_px": list(self.rule.frame_size(native, model.patch_size))}


@dataclass(frozen=True)
class MaskTask(DavisTask):
    """A protocol that predicts masks; a subclass adds its settings and how it segments a video."""

    @abstractmethod
    def segment(self, model: GridModel, head: str, name: str, frames: Frames, first: Labels) -> Iterator[Labels]:
        """Yield the labels of each later frame of sequence `name` at native size; `first` has those of the first."""

    def parts(self) -> dict[str, int]:
        """Return the number of frames to predict, by sequence."""
        return {name: len(sequence.frames) - 1 for name, sequence in self.data.sequences.items()}

    def counts(self) -> dict[str, int]:
        sequences = self.data.sequences.values()
        objects = sum(int(self.data.reference(sequence).max()) for sequence in sequences)
        frames = sum(len(sequence.frames) for sequence in sequences)
        return {"sequences": len(sequences), "objects": objects, "frames": frames}

    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        """Predict one sequence, save it below `folder`/predictions/HEAD/SEQUENCE, and score the saved files."""
        sequence = self.data.sequences[part]
        saved = folder / "predictions" / head / part
        saved.mkdir(parents=True, exist_ok=True)
        reference = self.data.reference(sequence)
        files = [saved / mask.name for mask in sequence.masks]
        write_label_png(files[0], reference)
        frames = (read_stored(path) for path in sequence.frames)
        labels = self.segment(model, head, part, frames, reference)
        for file, frame_labels in zip(files[1:], labels, strict=True):
            write_label_png(file, frame_labels)
            advance()
        truths = ((without_void(self.data.labels(mask)), mask) for mask in sequence.masks)
        scores = score_sequence(part, zip(truths, ((read_mask(file), file) for file in files), strict=True))
        return {"frames": len(sequence.frames), "objects": [asdict(score) for score in scores]}

    def metrics(self, records: Iterable[Json]) -> dict[str, float | None]:
        return summarize(ObjectScore(**entry) for record in records for entry in record["objects"])
