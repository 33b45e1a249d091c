"""DAVIS as work for the harness: one part per sequence, predictions saved as indexed PNGs and scored from the files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lila_cues.images import read_frame, read_mask
from lila_cues.viz.pictures import write_label_png
from lila_train.evaluation.davis.data import DavisData, DavisSequence
from lila_train.evaluation.davis.metrics import LabelPair, ObjectScore, score_sequence, summarize, without_void
from lila_train.evaluation.models import GridModel
from lila_train.evaluation.results import Json, files_sha256
from lila_train.model.resize import Image, Labels, Size
from stores.errors import LilaError


@dataclass(frozen=True)
class Video:
    """The input of a protocol: the sequence's name, its frames in order, and the labels of the first one."""

    name: str
    frames: Iterable[Image]
    reference: Labels


@dataclass(frozen=True)
class DavisTask(ABC):
    """A protocol on DAVIS; a subclass adds its settings and how it segments a video."""

    protocol: str
    data: DavisData

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]: ...

    @abstractmethod
    def segment(self, model: GridModel, head: str, video: Video) -> Iterator[Labels]:
        """Yield the labels of every frame after the first, at native size."""

    @abstractmethod
    def derived(self, model: GridModel) -> dict[str, Any]: ...

    @property
    def root(self) -> Path:
        return self.data.root

    def parts(self) -> dict[str, int]:
        """Return the number of frames to predict, by sequence."""
        return {name: len(sequence.frames) - 1 for name, sequence in self.data.sequences.items()}

    def data_identity(self) -> dict[str, Any]:
        paths = (path for sequence in self.data.sequences.values() for path in (*sequence.frames, *sequence.masks))
        files = files_sha256(paths, self.root)
        return {"layout": self.data.layout, "sequences": list(self.data.sequences), "files_sha256": files}

    def counts(self) -> dict[str, int]:
        sequences = self.data.sequences.values()
        objects = sum(int(self._reference(sequence).max()) for sequence in sequences)
        frames = sum(len(sequence.frames) for sequence in sequences)
        return {"sequences": len(sequences), "objects": objects, "frames": frames}

    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        """Predict one sequence, save it below `folder`/predictions/HEAD/SEQUENCE, and score the saved files."""
        sequence = self.data.sequences[part]
        saved = folder / "predictions" / head / part
        saved.mkdir(parents=True, exist_ok=True)
        reference = self._reference(sequence)
        video = Video(part, self._frames(sequence, (reference.shape[0], reference.shape[1])), reference)
        write_label_png(saved / f"{sequence.masks[0].stem}.png", reference)
        for mask, labels in zip(sequence.masks[1:], self.segment(model, head, video), strict=True):
            write_label_png(saved / f"{mask.stem}.png", labels)
            advance()
        pairs = (
            LabelPair(without_void(self.data.labels(mask)), read_mask(file), str(mask), str(file))
            for mask, file in ((mask, saved / f"{mask.stem}.png") for mask in sequence.masks)
        )
        scores = score_sequence(part, pairs)
        return {"frames": len(sequence.frames), "objects": [asdict(score) for score in scores]}

    def metrics(self, records: Iterable[Json]) -> dict[str, float | None]:
        """Return J, F and their statistics over the objects of all sequences."""
        return summarize(ObjectScore(**entry) for record in records for entry in record["objects"])

    def _reference(self, sequence: DavisSequence) -> Labels:
        return without_void(self.data.labels(sequence.masks[0]))

    def native_size(self) -> Size:
        """Return the size of the first sequence's frames."""
        height, width = self._reference(next(iter(self.data.sequences.values()))).shape
        return height, width

    def _frames(self, sequence: DavisSequence, size: Size) -> Iterator[Image]:
        for path in sequence.frames:
            frame = read_frame(path)
            if frame.shape[:2] != size:
                raise LilaError(
                    f"expected frames of the size of the first mask, {size[1]}×{size[0]}, found "
                    f"{frame.shape[1]}×{frame.shape[0]} in {path}; restore that file"
                )
            yield frame
