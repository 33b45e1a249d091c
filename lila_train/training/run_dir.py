"""The files of a training run: weights, checkpoints to resume from, logs of losses and scores, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stores
from lila_train.outputs import open_folder, read_json, write_json
from lila_train.training.config import TrainConfig
from stores.atomic import atomic_write

FILES = ("weights.safetensors", "log.jsonl", "scores.jsonl", "loss.png")
FOLDERS = ("checkpoints", "pictures", "scores", "tensorboard")


class RunDir:
    """The files of one run under `root`.

    run.json holds the settings from the start on, and the result at the end; log.jsonl has a line per step,
    scores.jsonl one per protocol and scored step.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.weights, self.record = root, root / "weights.safetensors", root / "run.json"
        self.log, self.scores = root / "log.jsonl", root / "scores.jsonl"

    @classmethod
    def open(cls, root: Path, config: TrainConfig, store: stores.CueStore, *, overwrite: bool = False) -> RunDir:
        """Create the folder of a run, or open it to continue the same run.

        Args:
            overwrite: delete the run in it, if there is one, and start again.

        Raises:
            LilaError: `root` is a file, holds something else, or a run of other settings, which are named.
        """
        run_dir, wanted = cls(root), config
        recorded = (read_json(run_dir.record) or {}).get("settings", {}) if root.is_dir() and not overwrite else {}
        if config.schedule == "constant" and recorded.get("steps", config.steps) != config.steps:
            wanted = config.replace(steps=recorded["steps"])  # a longer run continues a shorter one
        shaping = {"settings": wanted.to_dict(), "store_fingerprint": store.fingerprint}
        own = [root / name for name in (*FILES, *FOLDERS)]
        open_folder(root, run_dir.record.name, shaping, own, overwrite)
        if config.steps > wanted.steps:
            run_dir.add_to_record(settings=config.to_dict())
        return run_dir

    def add_to_record(self, **facts: Any) -> None:
        """Add to run.json, or replace in it."""
        write_json(self.record, (read_json(self.record) or {}) | facts)

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
                atomic_write("".join(json.dumps(row) + "\n" for row in kept), path)


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
