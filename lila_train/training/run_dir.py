"""The files of a training run: weights, checkpoints to resume from, logs of losses and scores, settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import stores
from lila_train.training.config import TrainConfig
from stores.atomic import atomic_write
from stores.errors import LilaError

FILES = ("weights.safetensors", "run.json", "log.jsonl", "scores.jsonl", "loss.png")
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
        if root.exists() and not root.is_dir():
            raise LilaError(f"expected a folder for --out, found a file at {root}")
        run_dir = cls(root)
        found = {path.name for path in root.iterdir()} if root.is_dir() else set()
        if found and not found & {*FILES, *FOLDERS}:
            raise LilaError(f"expected a run or an empty folder for --out, found other files in {root}; pass another")
        if overwrite:
            for name in FILES:
                (root / name).unlink(missing_ok=True)
            for name in FOLDERS:
                shutil.rmtree(root / name, ignore_errors=True)
        if overwrite or not found or run_dir._continue(config, store):
            run_dir.write_record(config, store)
        return run_dir

    def _continue(self, config: TrainConfig, store: stores.CueStore) -> bool:
        """Check that the folder holds this run; return whether `config` has more steps than recorded."""
        again = "start again with --overwrite, or pass another --out"
        try:
            record = json.loads(self.record.read_text())
            recorded = TrainConfig.from_dict(record["settings"], self.record)
            fingerprint = record["store"]["fingerprint"]
        except (FileNotFoundError, TypeError, KeyError, json.JSONDecodeError) as error:
            raise LilaError(f"{self.root} holds a run without settings, written by version 0.1; {again}") from error
        steps = config.steps if config.schedule == "constant" else recorded.steps  # a longer run continues a shorter
        differences = recorded.replace(steps=steps).differences(config)
        if fingerprint != store.fingerprint:
            differences.append(f"the store: {record['store']['path']}, not {store.path}")
        if differences:
            raise LilaError(
                f"{self.root} is of a run with other settings ({'; '.join(differences)}); pass those, {again}"
            )
        return config.steps > recorded.steps

    def write_record(
        self, config: TrainConfig, store: stores.CueStore, result: Mapping[str, Any] | None = None
    ) -> None:
        """Write run.json: what shapes the run, and its `result` once it is finished."""
        record = {
            "version": version("lila-pixels"),
            "settings": config.to_dict(),
            "store": {"path": str(store.path), "fingerprint": store.fingerprint},
            "encoder": store.provenance["networks"]["encoder"],
            **(result or {}),
        }
        atomic_write((json.dumps(record, indent=2, sort_keys=True) + "\n").encode(), self.record)

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
                atomic_write("".join(json.dumps(row) + "\n" for row in kept).encode(), path)


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
