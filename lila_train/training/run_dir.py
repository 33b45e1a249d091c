"""The files of a training run: weights, checkpoints to resume from, logs of losses and scores, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.atomic import atomic_path
from stores.errors import LilaError


@dataclass(frozen=True)
class RunDir:
    """The files of one run under `root`.

    log.jsonl has a line per step, scores.jsonl one per protocol and scored step; run.json and loss.png (the curves of
    the losses) are of the finished run.
    """

    root: Path

    @classmethod
    def open(cls, root: Path, *, resume: bool) -> RunDir:
        """Create the folder.

        Raises:
            LilaError: `root` is a file, or holds anything and the run does not resume.
        """
        if root.is_dir() and any(root.iterdir()) and not resume:
            raise LilaError(
                f"the output folder {root} exists and is not empty; pass --resume to continue the run in it, or "
                "another --out"
            )
        if root.exists() and not root.is_dir():
            raise LilaError(f"expected a folder for --out, found a file at {root}")
        root.mkdir(parents=True, exist_ok=True)
        return cls(root)

    @property
    def weights(self) -> Path:
        return self.root / "weights.safetensors"

    @property
    def log(self) -> Path:
        return self.root / "log.jsonl"

    @property
    def scores(self) -> Path:
        return self.root / "scores.jsonl"

    @property
    def record(self) -> Path:
        return self.root / "run.json"

    @property
    def picture(self) -> Path:
        return self.root / "loss.png"

    def checkpoint(self, step: int) -> Path:
        """Return the path of the checkpoint after `step` steps."""
        return self.root / "checkpoints" / f"step-{step:08d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints on disk, oldest first."""
        return sorted((self.root / "checkpoints").glob("step-*.safetensors"))

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints."""
        for path in self.checkpoints()[:-keep]:
            path.unlink()

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines of the log so far."""
        return _read_lines(self.log)

    def scores_by_step(self, protocol: str, counts: Mapping[str, Any], metric: str) -> dict[int, float]:
        """Return a metric of a protocol, on data of those counts, by the number of steps before it."""
        rows = [row for row in _read_lines(self.scores) if (row["protocol"], row.get("counts")) == (protocol, counts)]
        return {row["step"]: row["figures"][metric] for row in rows}

    def truncate_logs(self, steps: int) -> None:
        """Drop what was logged after `steps` steps; the steps that follow are computed again."""
        for path, last in ((self.log, steps - 1), (self.scores, steps)):
            if path.exists():
                kept = [row for row in _read_lines(path) if row["step"] <= last]
                path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write run.json atomically."""
        with atomic_path(self.record) as temporary:
            temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def append_line(log: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a log as a line of JSON."""
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _read_lines(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, up to the first one that a kill cut short."""
    rows = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
