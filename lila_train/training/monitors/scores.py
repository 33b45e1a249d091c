"""Scores of a run while it is under way, on held-out clips with masks: local k-NN propagation and linear probe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lila_cues.networks.weights import tensors_sha256
from lila_train.evaluation.harness import Task, evaluate
from lila_train.evaluation.models import LilaModel
from lila_train.evaluation.protocols import Options, open_task
from lila_train.inference.model import Lila
from lila_train.training.monitors.board import Board
from lila_train.training.trainer import Trainer

PROTOCOLS = ("davis-knn@lila", "davis-lp@lila")


def open_tasks(data: Path, limit: int | None) -> list[Task]:
    """The two protocols on a folder in the DAVIS layout, on its first `limit` sequences."""
    return [open_task(name, data, Options(limit=limit)) for name in PROTOCOLS]


@dataclass(frozen=True)
class ScoreMonitor:
    """Adds a line per protocol to scores.jsonl and a point to TensorBoard's curves; the records lie under scores/.

    at_end: whether the finished run is scored as well, at its last step.
    """

    every: int
    tasks: Sequence[Task]
    board: Board | None = None
    at_end: bool = True

    def look(self, trainer: Trainer) -> None:
        """Score the decoder as it stands."""
        if trainer.step == trainer.settings.steps and not self.at_end:
            return
        root = trainer.folder.root
        for task in self.tasks:
            folder = root / "scores" / f"step-{trainer.step:08d}" / task.protocol
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped before its next checkpoint
            result = evaluate(task, _AsItStands(trainer), folder, trainer.hardware.device)
            figures: dict[str, Any] = result["scores"][LilaModel.head]
            line = {"step": trainer.step, "protocol": task.protocol, "counts": task.counts(), "figures": figures}
            with trainer.folder.scores.open("a") as log:
                log.write(json.dumps(line) + "\n")
            for name, value in figures.items():
                if value is not None and self.board is not None:
                    self.board.score(f"{task.protocol}/{name}", value, trainer.step)


@dataclass(frozen=True)
class _AsItStands:
    """The model in training, for the harness."""

    trainer: Trainer

    def heads(self) -> tuple[str, ...]:
        return (LilaModel.head,)

    def identity(self) -> dict[str, Any]:
        learner = self.trainer.learner
        return {
            "decoder_sha256": tensors_sha256(learner.decoder.state_dict()),
            "encoder": learner.encoder.source.to_dict(),
        }

    def load(self, device: torch.device) -> LilaModel:
        learner = self.trainer.learner
        return LilaModel(Lila(learner.encoder, learner.decoder), device)
