"""The files of a training run: weights, checkpoints to resume from, logs of losses and scores, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stores.errors import LilaError


class RunDir:
    """The files of one run under `root`.

    log.jsonl has a line per step, scores.jsonl one per protocol and scored step; run.json is of the finished run.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.weights, self.record = root, root / "weights.safetensors", root / "run.json"
        self.log, self.scores = root / "log.jsonl", root / "scores.jsonl"

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

    def checkpoint(self, step: int) -> Path:
        return self.root / "checkpoints" / f"step-{step:08d}.safetensors"

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints on disk, oldest first."""
        return sorted((self.root / "checkpoints").glob("step-*.safetensors"))

    def rows(self) -> list[dict[str, Any]]:
        return read_lines(self.log)

    def truncate_logs(self, steps: int) -> None:
        """Drop what was logged after `steps` steps; the steps that follow are computed again."""
        for path, last in ((self.log, steps - 1), (self.scores, steps)):
            if path.exists():
                kept = [row for row in read_lines(path) if row["step"] <= last]
                path.write_text("".join(json.dumps(row) + "\n" for row in kept))


def append_line(log: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a log as a line of JSON."""
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_lines(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, up to the first one that a kill cut short."""
    rows = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
