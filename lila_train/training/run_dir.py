"""What a training run leaves behind: weights, checkpoints to resume from, a log of losses, the settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.atomic import atomic_path
from stores.errors import LilaError

_PATTERN = "step-*.safetensors"


@dataclass(frozen=True)
class RunDir:
    """The files of one run under `root`."""

    root: Path

    @property
    def weights(self) -> Path:
        """The finished decoder."""
        return self.root / "weights.safetensors"

    @property
    def log(self) -> Path:
        """One JSON object per step."""
        return self.root / "log.jsonl"

    @property
    def scores(self) -> Path:
        """One JSON object per protocol and scored step, if the run is scored meanwhile."""
        return self.root / "scores.jsonl"

    @property
    def record(self) -> Path:
        """Settings, store and seconds of the run."""
        return self.root / "run.json"

    @property
    def picture(self) -> Path:
        """The curve of the losses."""
        return self.root / "loss.png"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint from which step `step` follows."""
        return self.root / "checkpoints" / f"step-{step:08d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """The checkpoints on disk, oldest first."""
        return sorted((self.root / "checkpoints").glob(_PATTERN))

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints."""
        for path in self.checkpoints()[:-keep]:
            path.unlink()

    def claim(self, *, resume: bool) -> None:
        """Make the folder; one that holds anything is refused unless the run resumes."""
        if self.root.is_dir() and any(self.root.iterdir()) and not resume:
            raise LilaError(
                f"the output folder {self.root} exists and is not empty; pass --resume to go on with the run in it, or "
                "another --out"
            )
        if self.root.exists() and not self.root.is_dir():
            raise LilaError(f"expected a folder for --out, found a file at {self.root}")
        self.root.mkdir(parents=True, exist_ok=True)

    def truncate_logs(self, steps: int) -> None:
        """Drop what was logged after `steps` steps: those that follow are computed again."""
        for path, last in ((self.log, steps - 1), (self.scores, steps)):
            if path.exists():
                kept = [row for row in _rows(path) if row["step"] <= last]
                path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def rows(self) -> list[dict[str, Any]]:
        """The losses so far."""
        return _rows(self.log)

    def scores_by_step(self, protocol: str, counts: dict[str, Any], figure: str) -> dict[int, float]:
        """One figure of a protocol on data of those counts, by the number of steps before it."""
        lines = [row for row in _rows(self.scores) if (row["protocol"], row.get("counts")) == (protocol, counts)]
        return {row["step"]: row["figures"][figure] for row in lines}

    def write_record(self, record: dict[str, Any]) -> None:
        """Write run.json, whole or not at all."""
        with atomic_path(self.record) as temporary:
            temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def _rows(log: Path) -> list[dict[str, Any]]:
    """Its lines; a last one that a kill cut short is left out."""
    rows = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
