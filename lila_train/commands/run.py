"""`lila-train run`."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lila_train.commands import run_options as o
from lila_train.training.overrides import changed, choice, parsed
from lila_train.training.recipes import DEFAULT
from lila_train.training.recipes import recipe as named
from lila_train.training.settings import TrainSettings
from stores import console
from stores.errors import LilaError

if TYPE_CHECKING:
    import stores
    from lila_train.evaluation.harness import Task
    from lila_train.training.monitors import Monitor
    from lila_train.training.monitors.board import Board
    from lila_train.training.run_folder import RunFolder
    from lila_train.training.trainer import StepRecord, Trainer

DEFAULT_STORE = Path("cues/kinetics.zarr")


def run(  # long by its options: typer reads a command's from its parameters
    store: o.Store = DEFAULT_STORE,
    out: o.Out = None,
    resume: o.Resume = False,
    recipe: o.Recipe = DEFAULT,
    steps: o.Steps = None,
    seed: o.Seed = 0,
    batch_size: o.BatchSize = None,
    lr: o.Lr = None,
    weight_decay: o.WeightDecay = None,
    schedule: o.Schedule = None,
    warmup_steps: o.WarmupSteps = None,
    clip_norm: o.ClipNorm = None,
    precision: o.Precision = None,
    width: o.Width = None,
    view_size: o.ViewSize = None,
    max_gap: o.MaxGap = None,
    channels: o.Channels = None,
    set_: o.Set = None,
    online: o.Online = False,
    checkpoint_every: o.CheckpointEvery = 1000,
    encoder_weights: o.EncoderWeights = None,
    loader_processes: o.LoaderProcesses = 0,
    chunks: o.Chunks = 1,
    compiled: o.Compiled = False,
    device: o.Device = "auto",
    pictures_every: o.PicturesEvery = 500,
    score_data: o.ScoreData = None,
    score_every: o.ScoreEvery = 5000,
    score_limit: o.ScoreLimit = 3,
) -> None:
    """Train the decoder on the pairs of a cue store.

    Writes into --out: weights.safetensors, log.jsonl (the losses of every step), loss.png, run.json, tensorboard/,
    pictures/ (cues, what is read off the features, and the features) and, with --score-data, scores.jsonl (J&F by
    local k-NN and by linear probe). A run that was stopped goes on with --resume, from its last checkpoint, as if it
    had never stopped; Ctrl-C and SIGTERM make it write one first.

    On several GPUs: torchrun --nproc-per-node N -m lila_train run …
    """
    import stores
    from lila_train.training.run_folder import RunFolder

    base = named(recipe).settings
    given = {
        "steps": steps,
        "seed": seed,
        "batch_size": batch_size,
        "learning_rate": lr,
        "weight_decay": weight_decay,
        "schedule": schedule and choice(base, "schedule", schedule),
        "warmup_steps": warmup_steps,
        "clip_norm": clip_norm,
        "precision": precision and choice(base, "precision", precision),
        "decoder_width": width,
        "view_size": view_size,
        "max_gap": max_gap,
        "channels": channels,
        "online": online,
    }
    told = {name: value for name, value in given.items() if value is not None}
    settings = changed(base, told | parsed(base, set_ or ()))
    opened = stores.open(_existing(store))
    settings.check_store(opened)
    folder = RunFolder(out or Path("runs") / store.stem)
    how = _How(resume, checkpoint_every, encoder_weights, loader_processes, chunks, compiled, device)
    _train(opened, folder, settings, how, _Look(pictures_every, score_data, score_every, score_limit))


_LONG_ON_A_CPU = 5000
"""Steps from which on a run without a GPU is told that there are smaller ones."""


@dataclass(frozen=True)
class _How:
    """The options that change no result."""

    resume: bool
    checkpoint_every: int
    encoder_weights: Path | None
    loader_processes: int
    chunks: int
    compiled: bool
    device: str


@dataclass(frozen=True)
class _Look:
    """The options of what is looked at while the run is under way."""

    pictures_every: int
    score_data: Path | None
    score_every: int
    score_limit: int

    def tasks(self) -> list[Task]:
        """The protocols on the score folder; one that cannot be read is refused here, before anything is written."""
        from lila_train.training.monitors.scores import open_tasks

        return [] if self.score_data is None else open_tasks(self.score_data, self.score_limit)

    def monitors(self, tasks: Sequence[Task], board: Board) -> list[Monitor]:
        """What was asked for."""
        from lila_train.training.monitors.pictures import PictureMonitor
        from lila_train.training.monitors.scores import ScoreMonitor

        pictures = [PictureMonitor(self.pictures_every, board)] if self.pictures_every else []
        return [*pictures, *([ScoreMonitor(self.score_every, tasks, board)] if tasks else [])]


def _existing(store: Path) -> Path:
    if store == DEFAULT_STORE and not store.exists():
        raise LilaError(
            f"no cue store at {store}; build it with `lila-cues build --dataset kinetics`, or pass another place with "
            "--store"
        )
    return store


def _train(store: stores.CueStore, folder: RunFolder, settings: TrainSettings, how: _How, look: _Look) -> None:
    from lila_train.devices import choose
    from lila_train.training.interruption import asked_to_stop
    from lila_train.training.learner import Hardware
    from lila_train.training.monitors.board import Board
    from lila_train.training.ranks import group
    from lila_train.training.trainer import Running, Trainer, encoder_of_store

    device, tasks = choose(how.device), look.tasks()
    began = time.monotonic()
    with ExitStack() as stack:
        share, asked = stack.enter_context(group(device)), stack.enter_context(asked_to_stop())
        bar = stack.enter_context(console.progress("steps"))
        if share.leads:
            folder.claim(resume=how.resume)
            if device.type == "cpu" and settings.steps >= _LONG_ON_A_CPU:
                console.err.print(
                    f"[bold yellow]note:[/] {settings.steps:,} steps on the CPU can take days; --recipe demo takes minutes"
                )
        task = bar.add_task("train", total=settings.steps, start=False, visible=share.leads)

        def show(row: StepRecord) -> None:
            bar.update(task, completed=row.step + 1, description=f"loss {row.loss:.3f}")

        encoder = encoder_of_store(store, how.encoder_weights, device)
        hardware = Hardware(device, share, how.chunks, how.compiled)
        running = Running(how.loader_processes, how.checkpoint_every, (show,), lambda: asked() is not None)
        trainer = Trainer(store, encoder, settings, folder, hardware, running)
        if how.resume and _taken_up(trainer):
            return
        if share.leads:
            board = stack.enter_context(closing(Board(folder.root / "tensorboard", trainer.step)))
            observers, monitors = (show, board.losses), look.monitors(tasks, board)
            trainer.running = replace(running, observers=observers, monitors=monitors)
        bar.start_task(task)
        bar.update(task, completed=trainer.step)
        whole = trainer.run()
    if share.leads:
        _conclude(trainer, time.monotonic() - began, whole)
    if not whole and asked() is signal.SIGINT:
        raise typer.Exit(console.EXIT_INTERRUPTED)


def _taken_up(trainer: Trainer) -> bool:
    """Put the trainer where the run in its folder was left; True when there is nothing left to do."""
    if trainer.is_finished():
        console.out.print(
            f"this run is finished: {trainer.folder.weights}; more --steps continue it, another --out begins a new one"
        )
        return True
    if trainer.restore():
        console.out.print(f"going on at step {trainer.step} of {trainer.settings.steps}")
    return False


def _conclude(trainer: Trainer, seconds: float, whole: bool) -> None:
    from lila_train.training.curves import draw_losses

    if not whole:
        console.out.print(f"stopped after step {trainer.step} of {trainer.settings.steps}; --resume goes on from there")
        return
    rows = trainer.folder.rows()
    draw_losses(rows, trainer.folder.picture)
    trainer.folder.write_record(
        {
            "settings": trainer.settings.to_dict(),
            "store": str(trainer.store.path),
            "encoder": trainer.learner.encoder.source.to_dict(),
            "device": str(trainer.hardware.device),
            "ranks": trainer.hardware.share.ranks,
            "steps": trainer.step,
            "final_loss": rows[-1]["loss"],
            "seconds": {"this_call": round(seconds, 2), "steps": round(sum(row["seconds"] for row in rows), 2)},
        }
    )
    console.out.print(f"{trainer.step} steps, loss {rows[-1]['loss']:.3f}: {trainer.folder.weights}")
