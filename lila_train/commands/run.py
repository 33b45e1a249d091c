"""`lila-train run`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lila_train.recipes import DEFAULT
from lila_train.recipes import recipe as named
from stores import console
from stores.errors import LilaError

if TYPE_CHECKING:
    import stores
    from lila_train.method import Losses
    from lila_train.run_folder import RunFolder
    from lila_train.settings import TrainSettings
    from lila_train.trainer import Trainer

DEFAULT_STORE = Path("cues/kinetics.zarr")


def run(
    store: Annotated[Path, typer.Option(help="The cue store that lila-cues build wrote.")] = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME for a store NAME.zarr.")] = None,
    recipe: Annotated[str, typer.Option(help="Named settings; the options below override them.")] = DEFAULT,
    steps: Annotated[int | None, typer.Option(help="Steps of the optimiser.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same run.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="AdamW's learning rate.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay.")] = None,
    width: Annotated[int | None, typer.Option(help="Inner width of the decoder; a feature has half of it.")] = None,
    view_size: Annotated[int | None, typer.Option(help="Side of a view in pixels, a multiple of the patch.")] = None,
    max_gap: Annotated[int | None, typer.Option(help="Pairs are at most so many frames apart.")] = None,
    channels: Annotated[int | None, typer.Option(help="Encoder channels told per pair, of those stored.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it.")] = False,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    encoder_weights: Annotated[Path | None, typer.Option(help="Where the encoder's weight file is now.")] = None,
    loader_processes: Annotated[int, typer.Option(min=0, help="Processes that read ahead.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
) -> None:
    """Train the decoder on the pairs of a cue store.

    Writes weights.safetensors, log.jsonl (the losses of every step), loss.png and run.json into --out. A run that was
    stopped goes on with --resume, from its last checkpoint, as if it had never stopped.
    """
    import stores
    from lila_train.run_folder import RunFolder

    opened = stores.open(_existing(store))
    method = {"view_size": view_size, "max_gap": max_gap, "channels": channels}
    rest = {
        "steps": steps,
        "seed": seed,
        "batch_size": batch_size,
        "learning_rate": lr,
        "weight_decay": weight_decay,
        "decoder_width": width,
    }
    settings = _settings(named(recipe).settings, rest, method)
    settings.check_store(opened.spec.geometry)
    folder = RunFolder(out or Path("runs") / store.stem)
    _train(opened, folder, settings, resume, checkpoint_every, encoder_weights, loader_processes, device)


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


def _train(
    store: stores.CueStore,
    folder: RunFolder,
    settings: TrainSettings,
    resume: bool,
    checkpoint_every: int,
    encoder_weights: Path | None,
    loader_processes: int,
    device_name: str,
) -> None:
    from lila_train.devices import choose
    from lila_train.trainer import Running, Trainer, encoder_of_store

    device = choose(device_name)
    folder.claim(resume=resume)
    began = time.monotonic()
    with console.progress("steps") as bar:
        task = bar.add_task("train", total=settings.steps, start=False)

        def on_step(step: int, losses: Losses) -> None:
            bar.update(task, completed=step, description=f"loss {losses.total.item():.3f}")

        running = Running(device, loader_processes, checkpoint_every, on_step)
        trainer = Trainer(store, encoder_of_store(store, encoder_weights, device), settings, folder, running)
        if _finished(trainer, resume):
            return
        bar.start_task(task)
        bar.update(task, completed=trainer.step)
        trainer.run()
    _conclude(trainer, time.monotonic() - began)


def _finished(trainer: Trainer, resume: bool) -> bool:
    """Whether there is nothing left to do; otherwise the trainer stands where the run was left."""
    if resume and trainer.is_finished():
        console.out.print(f"this run is finished: {trainer.folder.weights}; another --out begins a new one")
        return True
    if resume and trainer.restore():
        console.out.print(f"going on at step {trainer.step} of {trainer.settings.steps}")
    return False


def _conclude(trainer: Trainer, seconds: float) -> None:
    from lila_train.curves import draw_losses

    rows = trainer.folder.rows()
    draw_losses(rows, trainer.folder.picture)
    trainer.folder.write_record(
        {
            "settings": trainer.settings.to_dict(),
            "store": str(trainer.store.path),
            "device": str(trainer.running.device),
            "steps": trainer.step,
            "final_loss": rows[-1]["loss"],
            "seconds": {"run": round(seconds, 2), "steps": round(sum(row["seconds"] for row in rows), 2)},
        }
    )
    console.out.print(f"{trainer.step} steps, loss {rows[-1]['loss']:.3f}: {trainer.folder.weights}")
