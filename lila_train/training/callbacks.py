"""Logging and validation during a run: TensorBoard, pictures of cues and features, scores on held-out clips."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lila_cues.networks.weights import tensors_sha256
from lila_cues.viz.pictures import pca_basis, pca_picture, write_png
from lila_train.evaluation.harness import Options, Task, evaluate
from lila_train.evaluation.models import LilaModel
from lila_train.evaluation.protocols import open_task
from lila_train.model.lila import Lila
from lila_train.training.crops import make_views
from lila_train.training.run_dir import append_line
from lila_train.training.targets import active_cues
from lila_train.training.trainer import Callback, StepRecord, Trainer

Picture = UInt8[np.ndarray, "_ _ 3"]

SHOWN_PAIRS = 4
MARGIN = 6  # px of white between pictures
TITLE_HEIGHT = 14  # px
PROTOCOLS = ("davis-knn@lila", "davis-lp@lila")


def is_due(trainer: Trainer, every: int) -> bool:
    """Return whether a callback with that interval acts now: after every `every`-th step and after the last."""
    return trainer.step % every == 0 or trainer.step == trainer.config.steps


class TensorBoardLogger(Callback):
    """Write event files into a folder. A resumed run adds to them.

    Args:
        first_step: events from this step on, left by a run that was killed, are marked as replaced.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        values = record.to_row()
        step = values.pop("step")
        for name, value in values.items():
            self.writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self.writer.close()


@dataclass(frozen=True)
class PictureCallback(Callback):
    """Write pictures/step-N.png: one row for each of the same four pairs.

    From left to right: context view, query view, the features of both in one PCA basis, then each cue of the query and
    its prediction.
    """

    every: int
    board: TensorBoardLogger

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        if not is_due(trainer, self.every):
            return
        cues = active_cues(trainer.config)
        titles = ["context", "query", "our features", "", *(t for cue in cues for t in (cue.name, "predicted"))]
        rows = [_join(row, axis=1) for row in _rows(trainer)]
        picture = _join([_titles(titles, trainer.config.view_size), *rows], axis=0)
        path = trainer.run_dir.root / "pictures" / f"step-{trainer.step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        write_png(path, picture)
        self.board.writer.add_image("cues", picture, trainer.step, dataformats="HWC")


def _rows(trainer: Trainer) -> list[list[Picture]]:
    """Return the pictures of each pair, with the decoder as it is now."""
    context, query = make_views(trainer.first_pairs(SHOWN_PAIRS), trainer.config)
    x_context, x_query, predicted, query = trainer.train_step.predict(context, query)
    shown = (context.image, query.image, x_context, x_query, query.target, predicted)
    rows = []
    for photo_context, photo_query, *features, true, guess in zip(*(_array(t) for t in shown), strict=True):
        both = np.concatenate(features, axis=2)
        components = pca_picture(both, pca_basis(both.reshape(len(both), -1).T))
        row = [_photo(photo_context), _photo(photo_query), *np.split(components, 2, axis=1)]
        first = 0
        for cue in active_cues(trainer.config):
            channels = slice(first, first + cue.channels)
            row += cue.draw(true[channels], guess[channels])
            first = channels.stop
        rows.append(row)
    return rows


def _titles(names: Sequence[str], size: int) -> Picture:
    image = Image.new("RGB", (len(names) * (size + MARGIN) - MARGIN, TITLE_HEIGHT), "white")
    for n, name in enumerate(names):
        ImageDraw.Draw(image).text((n * (size + MARGIN), 0), name, fill="black")
    return np.array(image)


def _photo(image: np.ndarray) -> Picture:
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _join(pictures: Sequence[Picture], axis: int) -> Picture:
    """Place pictures side by side (axis 1) or below each other (axis 0), with a margin."""
    shape = list(pictures[0].shape)
    shape[axis] = MARGIN
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis)


def open_tasks(data: Path, limit: int | None) -> list[Task]:
    """Open k-NN and linear probe (fast solver) on the first `limit` sequences of a folder in the DAVIS layout."""
    return [open_task(name, data, Options(limit=limit, fast_probe=name == "davis-lp@lila")) for name in PROTOCOLS]


@dataclass(frozen=True)
class ScoreCallback(Callback):
    """Append a line per protocol to scores.jsonl and a point to TensorBoard's curves; records go under scores/.

    at_end: whether to score the finished run too, after its last step.
    """

    every: int
    tasks: Sequence[Task]
    board: TensorBoardLogger | None = None
    at_end: bool = True

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        is_last = trainer.step == trainer.config.steps
        if not is_due(trainer, self.every) or (is_last and not self.at_end):
            return
        run_dir = trainer.run_dir
        for task in self.tasks:
            folder = run_dir.root / "scores" / f"step-{trainer.step:08d}" / task.protocol
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped before its next checkpoint
            result = evaluate(task, _ModelInTraining(trainer), folder, trainer.rank.device)
            metrics: dict[str, Any] = result["scores"][LilaModel.head]
            line = {"step": trainer.step, "protocol": task.protocol, "counts": task.counts(), "figures": metrics}
            append_line(run_dir.scores, line)
            for name, value in metrics.items():
                if value is not None and self.board is not None:
                    self.board.writer.add_scalar(f"score/{task.protocol}/{name}", value, trainer.step)


@dataclass(frozen=True)
class _ModelInTraining:
    """A model specification for the harness: the decoder as it is now."""

    trainer: Trainer

    def heads(self) -> tuple[str, ...]:
        return (LilaModel.head,)

    def identity(self) -> dict[str, Any]:
        step = self.trainer.train_step
        return {"decoder_sha256": tensors_sha256(step.decoder.state_dict()), "encoder": step.encoder.source.to_dict()}

    def load(self, device: torch.device) -> LilaModel:
        step = self.trainer.train_step
        return LilaModel(step.encoder, device, Lila(step.encoder, step.decoder))
