"""The files of a training run: weights, checkpoints to resume from, logs of losses and scores, settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import stores
from lila_cues import console
from lila_train.outputs import open_folder, read_json, write_json
from lila_train.training.config import TrainConfig
from stores.atomic import atomic_write, read_lines

FILES = ("weights.safetensors", "log.jsonl", "scores.jsonl", "loss.png")
FOLDERS = ("checkpoints", "pictures", "scores", "tensorboard", "wandb")


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
        if config.schedule != "cosine" and recorded.get("steps", config.steps) != config.steps:
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
        return read_lines(self.log, "step")[0]

    def truncate_logs(self, steps: int) -> None:
        """Drop the lines of later steps than `steps`, which are computed again, and damaged ones, with a note."""
        for path, last in ((self.log, steps - 1), (self.scores, steps)):
            if path.exists():
                rows, damaged = read_lines(path, "step")
                if damaged:
                    console.err.print(f"note: left out {damaged} damaged lines of {path}")
                atomic_write("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= last), path)
