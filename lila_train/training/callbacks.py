"""What is looked at while a run is under way: curves for TensorBoard, pictures of cues and features, scores.

A monitor reads a trainer and writes into the run's folder; none of them changes the run.

The run's curves and pictures for TensorBoard.

Pictures of a run while it is under way: the query view's cues, what is read off our features, and the features.

Scores of a run while it is under way, on held-out clips with masks: local k-NN propagation and linear probe.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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
from lila_train.training.crops import cut_views
from lila_train.training.targets import active_cues

if TYPE_CHECKING:
    from lila_train.training.trainer import StepRecord, Trainer


@runtime_checkable
class Callback(Protocol):
    """Called on the leading rank after every `every`-th step, and after the last."""

    @property
    def every(self) -> int:
        """Steps between looks."""
        ...

    def on_step_end(self, trainer: Trainer) -> None:
        """See to the trainer as it stands after `trainer.step` steps."""
        ...


class TensorBoardLogger:
    """Writes event files under a folder; a resumed run adds to it, and what it computes again replaces what was there.

    `first_step`: events from that step on, left by a run that was killed, are marked as replaced.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def losses(self, row: StepRecord) -> None:
        """A step's losses, its learning rate and its seconds."""
        values = asdict(row)
        step = values.pop("step")
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def score(self, name: str, value: float, step: int) -> None:
        """A figure of a protocol."""
        self._writer.add_scalar(f"score/{name}", value, step)

    def picture(self, name: str, image: UInt8[np.ndarray, "h w 3"], step: int) -> None:
        """A picture, kept as PNG inside the event file."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still held."""
        self._writer.close()


SHOWN = 4  # pairs
MARGIN = 6  # px of white between pictures

Picture = UInt8[np.ndarray, "_ _ 3"]
TITLE_HEIGHT = 14  # px


@dataclass(frozen=True)
class PictureCallback:
    """Writes pictures/step-N.png: a row for each of the same four pairs of the store.

    From left to right: context view, query view, the features of both in one basis, then each cue of the query as it
    is and as it is read off our features.
    """

    every: int
    board: TensorBoardLogger

    def on_step_end(self, trainer: Trainer) -> None:
        """Draw the pairs with the decoder as it stands."""
        picture = _stacked([_titles(trainer), *(_side_by_side(pictures) for pictures in _seen(trainer))])
        path = trainer.folder.root / "pictures" / f"step-{trainer.step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        write_png(path, picture)
        self.board.picture("cues", picture, trainer.step)


def _titles(trainer: Trainer) -> Picture:
    """What each column shows."""
    method = trainer.settings.method
    told = [title for cue in active_cues(method) for title in (cue.name, "read off")]
    names = ["context", "query", "our features", "", *told]
    image = Image.new("RGB", (len(names) * (method.view_size + MARGIN) - MARGIN, TITLE_HEIGHT), "white")
    for n, name in enumerate(names):
        ImageDraw.Draw(image).text((n * (method.view_size + MARGIN), 0), name, fill="black")
    return np.array(image)


def _seen(trainer: Trainer) -> list[list[Picture]]:
    batch = trainer.first_pairs(SHOWN)
    context, query = cut_views(batch, trainer.settings.method)
    of_context, of_query, read, query = trainer.train_step.predicted(context, query)
    return [
        _row(_One(context.image[n], query.image[n], of_context[n], of_query[n], query.cues[n], read[n]), trainer)
        for n in range(len(batch.clips))
    ]


@dataclass(frozen=True)
class _One:
    """What is drawn of one pair, channels first."""

    context: Tensor
    query: Tensor
    of_context: Tensor
    of_query: Tensor
    cues: Tensor
    read: Tensor


def _row(pair: _One, trainer: Trainer) -> list[Picture]:
    features = np.concatenate([_array(pair.of_context), _array(pair.of_query)], axis=2)
    both = pca_picture(features, pca_basis(features.reshape(len(features), -1).T))
    size = both.shape[0]
    shown = [_photo(pair.context), _photo(pair.query), both[:, :size], both[:, size:]]
    true, read = _array(pair.cues), _array(pair.read)
    at = 0
    method = trainer.settings.method
    for cue in active_cues(method):
        channels = slice(at, at + cue.channels(method))
        shown += cue.draw(true[channels], read[channels])
        at = channels.stop
    return shown


def _photo(image: Tensor) -> Picture:
    return np.rint(255 * _array(image).clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _side_by_side(pictures: Sequence[Picture]) -> Picture:
    height = pictures[0].shape[0]
    gap = np.full((height, MARGIN, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def _stacked(rows: Sequence[Picture]) -> Picture:
    gap = np.full((MARGIN, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, gap)][:-1], axis=0)


PROTOCOLS = ("davis-knn@lila", "davis-lp@lila")


def open_tasks(data: Path, limit: int | None) -> list[Task]:
    """The two protocols on a folder in the DAVIS layout, on its first `limit` sequences."""
    return [open_task(name, data, Options(limit=limit)) for name in PROTOCOLS]


@dataclass(frozen=True)
class ScoreCallback:
    """Adds a line per protocol to scores.jsonl and a point to TensorBoard's curves; the records lie under scores/.

    at_end: whether the finished run is scored as well, at its last step.
    """

    every: int
    tasks: Sequence[Task]
    board: TensorBoardLogger | None = None
    at_end: bool = True

    def on_step_end(self, trainer: Trainer) -> None:
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
        train_step = self.trainer.train_step
        return {
            "decoder_sha256": tensors_sha256(train_step.decoder.state_dict()),
            "encoder": train_step.encoder.source.to_dict(),
        }

    def load(self, device: torch.device) -> LilaModel:
        train_step = self.trainer.train_step
        return LilaModel(Lila(train_step.encoder, train_step.decoder), device)
