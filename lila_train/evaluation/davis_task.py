"""DAVIS as work for the harness: one part per sequence, its predictions on disk as indexed PNGs, scored from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lila_train.evaluation import davis_data, davis_scorer, picture_files
from lila_train.evaluation.davis_data import DavisData
from lila_train.evaluation.davis_scorer import LabelPair, ObjectScore
from lila_train.evaluation.frames import Image, Labels
from lila_train.evaluation.models import GridModel
from lila_train.evaluation.result_folder import files_sha256
from lila_train.evaluation.sums import Tally
from lila_train.sizes import Size
from stores.errors import LilaError
from stores.pictures import write_label_png


@dataclass(frozen=True)
class Video:
    """What a segmenter is given: the sequence's name, its frames in order, and the first one's labels."""

    name: str
    frames: Iterable[Image]
    reference: Labels


Segmenter = Callable[[GridModel, str, Video], Iterator[Labels]]


@dataclass(frozen=True)
class DavisTask:
    """A protocol on DAVIS: `segment` gives the labels of all frames after the first."""

    protocol: str
    settings: dict[str, Any]
    data: DavisData
    segment: Segmenter
    describe: Callable[[GridModel, Size], dict[str, Any]]

    @property
    def root(self) -> Path:
        """The DAVIS folder."""
        return self.data.root

    def parts(self) -> Sequence[str]:
        """The sequences, in the order of the list."""
        return [sequence.name for sequence in self.data.sequences]

    def steps(self, part: str) -> int:
        """Frames to predict in a sequence."""
        return len(self._sequence(part).frames) - 1

    def data_identity(self) -> dict[str, Any]:
        """The layout and a hash of what is scored: the names and sizes of all frames and masks."""
        paths = (path for sequence in self.data.sequences for path in (*sequence.frames, *sequence.masks))
        return {
            "layout": self.data.layout.name,
            "sequences": self.parts(),
            "files_sha256": files_sha256(paths, self.root),
        }

    def counts(self) -> dict[str, int]:
        """Sequences, frames and objects that the figures are of."""
        objects = sum(int(self._reference(sequence).max()) for sequence in self.data.sequences)
        return {"sequences": len(self.data.sequences), "objects": objects, "frames": self.data.n_frames}

    def derived(self, model: GridModel) -> dict[str, Any]:
        """What the settings come to for this model, on the first sequence."""
        return self.describe(model, self._reference(self.data.sequences[0]).shape)

    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> dict[str, Any]:
        """Predict one sequence, save it below `folder`/predictions/HEAD/SEQUENCE, and score what was saved."""
        sequence = self._sequence(part)
        saved = folder / "predictions" / head / part
        saved.mkdir(parents=True, exist_ok=True)
        reference = self._reference(sequence)
        video = Video(part, self._frames(sequence, reference.shape), reference)
        write_label_png(saved / f"{sequence.masks[0].stem}.png", reference)
        for mask, labels in zip(sequence.masks[1:], self.segment(model, head, video), strict=True):
            write_label_png(saved / f"{mask.stem}.png", labels)
            advance()
        scores = davis_scorer.score_sequence(part, self._pairs(sequence, saved))
        return {"frames": len(sequence.frames), "objects": [asdict(score) for score in scores]}

    def figures(self, records: Iterable[dict[str, Any]]) -> dict[str, float | None]:
        """J, F and the rest over the objects of these sequences."""
        objects = [ObjectScore.from_json(entry) for record in records for entry in record["objects"]]
        return davis_scorer.figures(sum((davis_scorer.tally([score]) for score in objects), Tally()))

    def _sequence(self, part: str) -> davis_data.DavisSequence:
        return next(sequence for sequence in self.data.sequences if sequence.name == part)

    def _reference(self, sequence: davis_data.DavisSequence) -> Labels:
        return davis_scorer.without_void(self.data.labels(sequence.masks[0]))

    def _frames(self, sequence: davis_data.DavisSequence, size: tuple[int, ...]) -> Iterator[Image]:
        for path in sequence.frames:
            frame = picture_files.read_frame(path)
            if frame.shape[:2] != size:
                raise LilaError(
                    f"expected frames of the size of the first mask, {size[1]}×{size[0]}, found "
                    f"{frame.shape[1]}×{frame.shape[0]} in {path}; restore that file"
                )
            yield frame

    def _pairs(self, sequence: davis_data.DavisSequence, saved: Path) -> Iterator[LabelPair]:
        for mask in sequence.masks:
            prediction = saved / f"{mask.stem}.png"
            truth = davis_scorer.without_void(self.data.labels(mask))
            yield LabelPair(truth, picture_files.read_mask(prediction), str(mask), str(prediction))
