"""What the demo's page is made of: the store, the training run and the evaluation below one folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import stores
from lila_train.evaluation.result_folder import Json, read_json
from lila_train.report.davis_result import DavisResult
from lila_train.training.run_folder import RunFolder
from stores.errors import LilaError

BUILD_LOG = "build.jsonl"


@dataclass(frozen=True)
class DemoInputs:
    """The folder of a demo run: `cues.zarr`, `train` and `eval` in it."""

    root: Path

    @property
    def run(self) -> RunFolder:
        """The training run."""
        return RunFolder(self.root / "train")

    @cached_property
    def davis(self) -> DavisResult:
        """The evaluation of its weights on held-out scenes."""
        _existing(self.root / "eval" / "result.json", "the evaluation's result", "lila-train eval davis-knn@lila")
        return DavisResult(self.root / "eval")

    @cached_property
    def store(self) -> stores.CueStore:
        """The cues it was trained on."""
        return stores.open(_existing(self.root / "cues.zarr", "the cue store", "lila-cues build"))

    @property
    def result(self) -> Json:
        """The evaluation's result."""
        return self.davis.content

    @cached_property
    def record(self) -> Json:
        """Settings and seconds of the training run."""
        return _json(self.run.record, "the record of the training run", "lila-train run")

    @property
    def weights(self) -> Path:
        """The trained decoder."""
        return _existing(self.run.weights, "the trained weights", "lila-train run")

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
