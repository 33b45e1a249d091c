"""What the demo's page is made of: the store, the training run and the evaluation below one folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import stores
from lila_train.evaluation.davis_data import DavisData, Sequence, open_davis
from lila_train.evaluation.davis_scorer import figures, tally
from lila_train.evaluation.davis_task import object_score
from lila_train.evaluation.result_folder import ResultFolder, read_json
from lila_train.run_folder import RunFolder
from stores.errors import LilaError

BUILD_LOG = "build.jsonl"

Json = dict[str, Any]


@dataclass(frozen=True)
class DemoInputs:
    """The folder of a demo run: `cues.zarr`, `train` and `eval` in it."""

    root: Path

    @property
    def run(self) -> RunFolder:
        """The training run."""
        return RunFolder(self.root / "train")

    @property
    def evaluation(self) -> ResultFolder:
        """The evaluation of its weights."""
        return ResultFolder(self.root / "eval")

    @cached_property
    def store(self) -> stores.CueStore:
        """The cues it was trained on."""
        return stores.open(_existing(self.root / "cues.zarr", "the cue store", "lila-cues build"))

    @cached_property
    def result(self) -> Json:
        """The evaluation's result."""
        return _json(self.evaluation.result, "the evaluation's result", "lila-train eval davis-knn@lila")

    @cached_property
    def record(self) -> Json:
        """Settings and seconds of the training run."""
        return _json(self.run.record, "the record of the training run", "lila-train run")

    @cached_property
    def data(self) -> DavisData:
        """The held-out sequences."""
        return open_davis(Path(self.result["data_root"]))

    @property
    def weights(self) -> Path:
        """The trained decoder."""
        return _existing(self.run.weights, "the trained weights", "lila-train run")

    def sequence(self, name: str) -> Sequence:
        """A held-out sequence by its name."""
        return next(sequence for sequence in self.data.sequences if sequence.name == name)

    def prediction(self, head: str, sequence: str, frame: int) -> Path:
        """The saved labels of a frame."""
        stem = self.sequence(sequence).masks[frame].stem
        return self.evaluation.root / "predictions" / head / sequence / f"{stem}.png"

    def sequence_figures(self, head: str, sequence: str) -> dict[str, float | None]:
        """J, F and JF over the objects of one sequence."""
        return figures(tally(object_score(entry) for entry in self.result["parts"][head][sequence]["objects"]))

    def seconds(self) -> dict[str, float]:
        """Where the time went: stage one as it logged it, the steps of stage two, each head's evaluation."""
        found = {"cues": 0.0} if self._build_log() else {}
        for line in self._build_log():
            found["cues"] += float(line.get("wall", 0.0))
            for part, seconds in line.get("seconds", {}).items():
                found[f"cues: {part}"] = found.get(f"cues: {part}", 0.0) + float(seconds)
        found["training"] = float(self.record["seconds"]["steps"])
        found |= {f"evaluation: {head}": float(seconds) for head, seconds in self.result["seconds"].items()}
        return {part: round(seconds, 2) for part, seconds in found.items()}

    def _build_log(self) -> list[Json]:
        log = self.root / "cues.zarr" / BUILD_LOG
        return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []

    def fingerprint(self) -> str:
        """Hex SHA-256 of what the page shows: cues, run and result."""
        shown = [self.store.fingerprint, self.record, self.result]
        return hashlib.sha256(json.dumps(shown, sort_keys=True, default=str).encode()).hexdigest()


def _existing(path: Path, what: str, command: str) -> Path:
    if not path.exists():
        raise LilaError(f"expected {what} at {path}, found nothing there; make it with `{command}`, or run `make demo`")
    return path


def _json(path: Path, what: str, command: str) -> Json:
    content = read_json(_existing(path, what, command))
    assert content is not None
    return content
