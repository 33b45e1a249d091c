"""`lila-train run`."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lila_train.recipes import DEFAULT
from lila_train.recipes import recipe as named
from lila_train.settings import TrainSettings, check_words
from stores import console
from stores.errors import LilaError

if TYPE_CHECKING:
    import stores
    from lila_train.run_folder import RunFolder
    from lila_train.trainer import Row, Trainer

DEFAULT_STORE = Path("cues/kinetics.zarr")


def run(
    store: Annotated[Path, typer.Option(help="The cue store that lila-cues build wrote.")] = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME for a store NAME.zarr.")] = None,
    recipe: Annotated[str, typer.Option(help="Named settings; the options below override them.")] = DEFAULT,
    steps: Annotated[int | None, typer.Option(help="Steps of the optimiser.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same run.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per step, over all ranks.")] = None,
    lr: Annotated[float | None, typer.Option(help="AdamW's learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant or cosine.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(min=0, help="Steps of linear warm-up.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16; the solve is always float32.")] = None,
    width: Annotated[int | None, typer.Option(help="Inner width of the decoder; a feature has half of it.")] = None,
    view_size: Annotated[int | None, typer.Option(help="Side of a view in pixels, a multiple of the patch.")] = None,
    max_gap: Annotated[int | None, typer.Option(help="Pairs are at most so many frames apart.")] = None,
    channels: Annotated[int | None, typer.Option(help="Encoder channels told per pair, of those stored.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it.")] = False,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    encoder_weights: Annotated[Path | None, typer.Option(help="Where the encoder's weight file is now.")] = None,
    loader_processes: Annotated[int, typer.Option(min=0, help="Processes that read ahead.")] = 0,
    chunks: Annotated[int, typer.Option(min=1, help="Compute a batch in so many parts, to save memory.")] = 1,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile encoder and decoder with PyTorch.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
) -> None:
    """Train the decoder on the pairs of a cue store.

    Writes weights.safetensors, log.jsonl (the losses of every step), loss.png and run.json into --out. A run that was
    stopped goes on with --resume, from its last checkpoint, as if it had never stopped; SIGTERM makes it write one.

    On several GPUs: torchrun --nproc-per-node N -m lila_train run …
    """
    import stores
    from lila_train.run_folder import RunFolder

    method = {"view_size": view_size, "max_gap": max_gap, "channels": channels}
    rest = {
        "steps": steps,
        "seed": seed,
        "batch_size": batch_size,
        "learning_rate": lr,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup_steps": warmup_steps,
        "clip_norm": clip_norm,
        "precision": precision,
        "decoder_width": width,
    }
    check_words(schedule, precision)
    settings = _settings(named(recipe).settings, rest, method)
    opened = stores.open(_existing(store))
    settings.check_store(opened.spec.geometry)
    folder = RunFolder(out or Path("runs") / store.stem)
    how = _How(resume, checkpoint_every, encoder_weights, loader_processes, chunks, compiled, device)
    _train(opened, folder, settings, how)


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


def _settings(base: TrainSettings, rest: dict[str, Any], method: dict[str, Any]) -> TrainSettings:
    """The recipe's settings with the options that were given."""
    given = {name: value for name, value in method.items() if value is not None}
    rest = {name: value for name, value in rest.items() if value is not None}
    settings = replace(base, **rest, method=replace(base.method, **given))
    settings.check()
    return settings


def _existing(store: Path) -> Path:
    if store == DEFAULT_STORE and not store.exists():
        raise LilaError(
            f"no cue store at {store}; build it with `lila-cues build --dataset kinetics`, or pass another place with "
            "--store"
        )
    return store


def _train(store: stores.CueStore, folder: RunFolder, settings: TrainSettings, how: _How) -> None:
    from lila_train.devices import choose
    from lila_train.interruption import on_sigterm
    from lila_train.learner import Hardware
    from lila_train.ranks import group
    from lila_train.trainer import Running, Trainer, encoder_of_store

    device = choose(how.device)
    began = time.monotonic()
    with group(device) as share, on_sigterm() as stopped, console.progress("steps") as bar:
        if share.leads:
            folder.claim(resume=how.resume)
        task = bar.add_task("train", total=settings.steps, start=False, visible=share.leads)

        def show(row: Row) -> None:
            bar.update(task, completed=row.step + 1, description=f"loss {row.loss:.3f}")

        encoder = encoder_of_store(store, how.encoder_weights, device)
        hardware = Hardware(device, share, how.chunks, how.compiled)
        running = Running(how.loader_processes, how.checkpoint_every, (show,), stopped)
        trainer = Trainer(store, encoder, settings, folder, hardware, running)
        if how.resume and _taken_up(trainer):
            return
        bar.start_task(task)
        bar.update(task, completed=trainer.step)
        whole = trainer.run()
    if share.leads:
        _conclude(trainer, time.monotonic() - began, whole)


def _taken_up(trainer: Trainer) -> bool:
    """Put the trainer where the run in its folder was left; True when there is nothing left to do."""
    if trainer.is_finished():
        console.out.print(f"this run is finished: {trainer.folder.weights}; another --out begins a new one")
        return True
    if trainer.restore():
        console.out.print(f"going on at step {trainer.step} of {trainer.settings.steps}")
    return False


def _conclude(trainer: Trainer, seconds: float, whole: bool) -> None:
    from lila_train.curves import draw_losses

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
