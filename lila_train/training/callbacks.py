"""Logging and validation during a run: TensorBoard, pictures of cues and features, scores on held-out clips."""

from __future__ import annotations

import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from lila_cues.networks import FrozenEncoder
from lila_cues.networks.weights import tensors_sha256
from lila_cues.viz.pictures import Picture, pca_basis, pca_picture, write_png
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.harness import Task, check, evaluate
from lila_train.evaluation.models import LilaModel
from lila_train.evaluation.protocols import open_task
from lila_train.model.decoder import Decoder
from lila_train.model.lila import Lila
from lila_train.outputs import read_json
from lila_train.training.config import TrainConfig
from lila_train.training.crops import make_views
from lila_train.training.data import load_pairs
from lila_train.training.distributed import Rank
from lila_train.training.run_dir import RunDir
from lila_train.training.targets import active_cues
from lila_train.training.trainer import StepRecord, Trainer
from stores.atomic import append_line
from stores.errors import LilaError, first_line

MARGIN, HEADING = 6, 14  # px of white between pictures, and above them for titles


class Logger(ABC):
    """A callback that draws curves and pictures over steps; a resumed run adds to them."""

    def __call__(self, run: Trainer, record: StepRecord) -> None:
        values = record.to_row()
        step = values.pop("step")
        self.scalars({f"train/{name}": value for name, value in values.items()}, step)

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each of the named curves."""

    @abstractmethod
    def image(self, name: str, picture: Picture, step: int) -> None:
        """Add a picture."""

    @abstractmethod
    def close(self) -> None:
        """Write buffered events."""


class TensorBoardLogger(Logger):
    """Write event files into a folder.

    Args:
        first_step: events from this step on, left by a run that was killed, are marked as replaced.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, name: str, picture: Picture, step: int) -> None:
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WandbLogger(Logger):
    """Log to Weights & Biases, with files below the run folder. A resumed run continues the same W&B run.

    The project is `lila` unless WANDB_PROJECT names another. Steps that a killed run has logged are not logged again.
    """

    def __init__(self, run_dir: RunDir, config: TrainConfig) -> None:
        try:
            import wandb
        except ImportError as error:
            raise LilaError(
                f"--logger wandb needs the package wandb ({error}); install it by pip install 'lila-pixels[wandb]'"
            ) from error
        recorded = (read_json(run_dir.record) or {}).get("wandb")
        self.wandb, id = wandb, recorded or secrets.token_hex(4)
        run_dir.add_to_record(wandb=id)
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "lila"),
                id=id,
                name=run_dir.root.name,
                dir=run_dir.root,
                resume="allow",
                config=config.to_dict(),
                settings=wandb.Settings(silent=True),
            )
        except Exception as error:  # of the service or the network
            raise LilaError(
                f"--logger wandb cannot start ({first_line(error)}); log in by `wandb login`, or set WANDB_MODE=offline"
            ) from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def image(self, name: str, picture: Picture, step: int) -> None:
        self.run.log({name: self.wandb.Image(picture)}, step=step)

    def close(self) -> None:
        self.run.finish()


def open_logger(name: str, run_dir: RunDir, config: TrainConfig, first_step: int) -> Logger:
    """Return the logger of that name for a run that continues at a step; LilaError for an unknown or missing one."""
    if name == "tensorboard":
        return TensorBoardLogger(run_dir.root / "tensorboard", first_step)
    if name == "wandb":
        return WandbLogger(run_dir, config)
    raise LilaError(f"expected --logger to be wandb (TensorBoard and log.jsonl are always written), found {name}")


@dataclass(frozen=True)
class PictureCallback:
    """Write pictures/step-N.png: one row for each of the same four pairs.

    Columns: context view, query view, the features of both in one PCA basis, then each cue of the query and its
    prediction.
    """

    every: int
    loggers: Sequence[Logger] = ()

    def __call__(self, run: Trainer, record: StepRecord) -> None:
        if run.step % self.every and run.step < run.config.steps:
            return
        cues = active_cues(run.config)
        config = run.config.replace(batch_size=min(4, run.config.batch_size))
        batch = next(load_pairs(replace(run.dataset(), config=config), range(1), Rank(device=run.rank.device)))
        context, query = make_views(batch, config)
        x_context, x_query, predicted, query = run.train_step.predict(context, query)
        shown = (context.image, query.image, x_context, x_query, query.target, predicted)
        titles = ["context", "query", "LILA, context", "LILA, query"]
        titles += [title for cue in cues for title in (f"{cue.name}, query", "predicted")]
        step, n_pairs = run.config.crop_size + MARGIN, len(context.image)
        sheet = Image.new("RGB", (len(titles) * step - MARGIN, HEADING + n_pairs * step), "white")
        for column, title in enumerate(titles):
            ImageDraw.Draw(sheet).text((column * step, 0), title, fill="black")
        for n, (*views, x_c, x_q, true, guess) in enumerate(
            zip(*(t.float().cpu().numpy() for t in shown), strict=True)
        ):
            row = [np.rint(255 * view.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0) for view in views]
            both = np.concatenate((x_c, x_q), axis=2)
            row += np.split(pca_picture(both, pca_basis(both.reshape(len(both), -1).T)), 2, axis=1)
            channels = np.cumsum([0, *(cue.channels for cue in cues)])
            for cue, first, end in zip(cues, channels, channels[1:], strict=False):
                row += cue.draw(true[first:end], guess[first:end])
            for column, picture in enumerate(row):
                sheet.paste(Image.fromarray(picture), (column * step, HEADING + n * step))
        path = run.run_dir.root / "pictures" / f"step-{run.step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        write_png(path, np.asarray(sheet))
        for logger in self.loggers:
            logger.image("cues", np.asarray(sheet), run.step)


def open_tasks(
    data: Path,
    limit: int | None,
    names: Sequence[str] = ("davis-knn@lila", "davis-lp@lila"),
    fast_probe: bool = True,
) -> list[Task]:
    """Open protocols on the first `limit` sequences of a DAVIS folder, and check its files."""
    fast = {name: fast_probe and name == "davis-lp@lila" for name in names}  # k-NN has no probe
    tasks = [open_task(name, data, EvalConfig(limit=limit, fast_probe=fast[name])) for name in names]
    check(tasks[0])  # all read the same files
    return tasks


@dataclass(frozen=True)
class ScoreCallback:
    """Append a line per protocol to scores.jsonl and points to the loggers' curves; records go under scores/.

    at: numbers of steps after which a run is scored.
    """

    at: Container[int]
    tasks: Sequence[Task]
    loggers: Sequence[Logger] = ()

    def __call__(self, run: Trainer, record: StepRecord) -> None:
        if run.step not in self.at:
            return
        run_dir = run.run_dir
        for task in self.tasks:
            folder = run_dir.root / "scores" / f"step-{run.step:08d}" / task.protocol
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped before its next checkpoint
            spec = DecoderSpec(run.train_step.encoder, run.train_step.exported)
            result = evaluate(task, spec, folder, run.rank.device, checked=True)
            metrics: dict[str, Any] = result["scores"][LilaModel.head]
            line = {"step": run.step, "protocol": task.protocol, "counts": task.counts(), "figures": metrics}
            append_line(run_dir.scores, line)
            measured = {f"score/{task.protocol}/{name}": x for name, x in metrics.items() if x is not None}
            for logger in self.loggers:
                logger.scalars(measured, run.step)


@dataclass(frozen=True)
class DecoderSpec:
    """A model specification for the harness: one head of a decoder that is in memory, on its encoder."""

    encoder: FrozenEncoder
    decoder: Decoder
    head: str = LilaModel.head

    def heads(self) -> tuple[str, ...]:
        return (self.head,)

    def identity(self) -> dict[str, Any]:
        digest, encoder = tensors_sha256(self.decoder.state_dict()), self.encoder.source.to_dict()
        return {"decoder_sha256": digest, "encoder": encoder, "heads": [self.head]}

    def load(self, device: torch.device) -> LilaModel:
        return LilaModel(self.encoder, device, Lila(self.encoder, self.decoder))
