"""A finished evaluation on DAVIS, with the frames, the masks and the predictions behind its figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lila_train.evaluation.davis_data import DavisData, DavisSequence, open_davis
from lila_train.evaluation.davis_scorer import ObjectScore, figures, tally
from lila_train.evaluation.result_folder import read_result


@dataclass(frozen=True)
class DavisResult:
    """The folder of an evaluation on DAVIS; the data that it scored are read where it found them."""

    root: Path

    @cached_property
    def content(self) -> dict[str, Any]:
        """result.json; LilaError where there is none."""
        return read_result(self.root)

    @property
    def heads(self) -> list[str]:
        """What was scored: `encoder`, and the pixel map's name."""
        return list(self.content["scores"])

    @property
    def names(self) -> list[str]:
        """The sequences."""
        return list(self.content["parts"][self.heads[0]])

    @cached_property
    def data(self) -> DavisData:
        """The data that were scored."""
        return open_davis(Path(self.content["data_root"]))

    def sequence(self, name: str) -> DavisSequence:
        """A sequence by its name."""
        return next(sequence for sequence in self.data.sequences if sequence.name == name)

    def objects(self, head: str, name: str) -> list[dict[str, Any]]:
        """The scores of a sequence's objects, frame by frame."""
        found: list[dict[str, Any]] = self.content["parts"][head][name]["objects"]
        return found

    def prediction(self, head: str, name: str, frame: int) -> Path:
        """The indexed PNG with the labels predicted for a frame, which is counted from 0."""
        return self.root / "predictions" / head / name / f"{self.sequence(name).masks[frame].stem}.png"

    def figures(self, head: str, name: str) -> dict[str, float | None]:
        """J, F and JF over the objects of one sequence."""
        return figures(tally(ObjectScore.from_json(entry) for entry in self.objects(head, name)))

    def gain(self, name: str) -> float:
        """How much higher the last head's J&F of a sequence is than the first's; its own where there is one head."""
        first, last = (self.figures(head, name)["JF"] or 0.0 for head in (self.heads[0], self.heads[-1]))
        return last - first if len(self.heads) > 1 else last
