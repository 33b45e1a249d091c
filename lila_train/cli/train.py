"""`lila-train run` and `lila-train recipes`."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lila_cues import console
from lila_train.training import config as settings
from lila_train.training.config import DEFAULT_RECIPE, RunOptions, TrainConfig, find_recipe
from stores.errors import LilaError

if TYPE_CHECKING:
    import stores
    from lila_train.training.trainer import Trainer

DEFAULT_STORE = Path("cues/kinetics.zarr")

_objective = partial(typer.Option, rich_help_panel="Objective and optimization")
_execution = partial(typer.Option, rich_help_panel="Execution")
_logging = partial(typer.Option, rich_help_panel="Logging and validation")


def run(
    store: Annotated[Path, typer.Option(help="Cue store written by lila-cues build.")] = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/NAME for a store NAME.zarr.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out, or start it.")] = False,
    recipe: Annotated[
        str, _objective(help="Named settings; `lila-train recipes` lists them. The options below override them.")
    ] = DEFAULT_RECIPE,
    steps: Annotated[int | None, _objective(help="Optimizer steps.")] = None,
    seed: Annotated[int, _objective(help="Seed of weights and sampling.")] = 0,
    batch_size: Annotated[int | None, _objective(help="Pairs per step, over all ranks.")] = None,
    lr: Annotated[float | None, _objective(help="AdamW learning rate.")] = None,
    weight_decay: Annotated[float | None, _objective(help="AdamW weight decay.")] = None,
    schedule: Annotated[str | None, _objective(help="Learning rate over the run: constant or cosine.")] = None,
    warmup_steps: Annotated[int | None, _objective(min=0, help="Steps of linear warm-up.")] = None,
    clip_norm: Annotated[float | None, _objective(help="Largest norm of the gradient.")] = None,
    precision: Annotated[str | None, _objective(help="float32 or bfloat16; the solve is always float32.")] = None,
    width: Annotated[int | None, _objective(help="Inner width of the decoder; a feature has half of it.")] = None,
    view_size: Annotated[int | None, _objective(help="Side of a view in pixels, a multiple of the patch.")] = None,
    max_gap: Annotated[int | None, _objective(help="Largest distance of a pair's frames, in source frames.")] = None,
    channels: Annotated[int | None, _objective(help="Encoder channels sampled per pair as targets.")] = None,
    set_: Annotated[
        list[str] | None,
        _objective(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, such as objective=erm, cues=flow,depth, roles=mirrored or detach=true; may be "
            "given more than once. `lila-train recipes NAME` lists names and values.",
        ),
    ] = None,
    checkpoint_every: Annotated[int, _execution(min=1, help="Steps between checkpoints.")] = 1000,
    encoder_weights: Annotated[Path | None, _execution(help="The encoder's weight file, if it has moved.")] = None,
    num_workers: Annotated[int, _execution(min=0, help="Loader processes; 0: load in the main process.")] = 0,
    chunks: Annotated[int, _execution(min=1, help="Micro-batches per step, to save memory; same result.")] = 1,
    compiled: Annotated[bool, _execution("--compile", help="Compile encoder and decoder with PyTorch.")] = False,
    device: Annotated[str, _execution(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    pictures_every: Annotated[int, _logging(min=0, help="Steps between pictures of cues and features; 0: none.")] = 500,
    score_data: Annotated[Path | None, _logging(help="Held-out clips with masks, in the DAVIS layout.")] = None,
    score_every: Annotated[int, _logging(min=1, help="Steps between scores.")] = 5000,
    score_limit: Annotated[int, _logging(min=1, help="Number of clips to score on.")] = 3,
) -> None:
    """Train the decoder on pairs of frames of a cue store.

    Writes into --out: weights.safetensors, log.jsonl (the losses of every step), loss.png, run.json, tensorboard/,
    pictures/ (cues, their predictions, and the features) and, with --score-data, scores.jsonl (J&F by local k-NN and
    by linear probe). --resume continues a run from its last checkpoint, with the same result as without the
    interruption; Ctrl-C and SIGTERM write a checkpoint first.

    On several GPUs: torchrun --nproc-per-node N -m lila_train run …
    """
    import stores
    from lila_train.training.targets import check_store

    options = {  # None: as the recipe has it
        "steps": steps,
        "seed": seed,
        "batch_size": batch_size,
        "learning_rate": lr,
        "weight_decay": weight_decay,
        "schedule": schedule and settings.parse_setting("schedule", schedule),
        "warmup_steps": warmup_steps,
        "clip_norm": clip_norm,
        "precision": precision and settings.parse_setting("precision", precision),
        "decoder_width": width,
        "view_size": view_size,
        "max_gap": max_gap,
        "channels": channels,
    }
    given = {name: value for name, value in options.items() if value is not None}
    config = settings.changed(find_recipe(recipe).config, given | settings.parse_assignments(set_ or ()))
    run_options = RunOptions(
        device=device,
        resume=resume,
        encoder_weights=encoder_weights,
        num_workers=num_workers,
        chunks=chunks,
        compile=compiled,
        checkpoint_every=checkpoint_every,
        pictures_every=pictures_every,
        score_data=score_data,
        score_every=score_every,
        score_limit=score_limit,
    )
    if store == DEFAULT_STORE and not store.exists():
        raise LilaError(
            f"no cue store at {store}; build it with `lila-cues build --dataset kinetics`, or pass another with --store"
        )
    opened = stores.open(store)
    check_store(config, opened)
    train(opened, out or Path("runs") / store.stem, config, run_options)


def train(store: stores.CueStore, out: Path, config: TrainConfig, options: RunOptions) -> None:
    """Train or resume the run in `out`, with progress on the terminal."""
    from lila_train.training.callbacks import PictureCallback, ScoreCallback, TensorBoardLogger, open_tasks
    from lila_train.training.distributed import graceful_shutdown, init
    from lila_train.training.run_dir import RunDir
    from lila_train.training.trainer import Callback, StepRecord, Trainer, encoder_of_store

    tasks = open_tasks(options.score_data, options.score_limit) if options.score_data else []
    started = time.monotonic()
    with ExitStack() as stack:
        rank = stack.enter_context(init(options.device))
        received = stack.enter_context(graceful_shutdown())
        bar = stack.enter_context(console.progress("steps"))
        task = bar.add_task("train", total=config.steps, start=False, visible=rank.is_main)

        class ProgressBar(Callback):
            def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
                bar.update(task, completed=trainer.step, description=f"loss {record.loss:.3f}")

        run_dir = RunDir.open(out, resume=options.resume) if rank.is_main else RunDir(out)
        if rank.is_main and rank.device.type == "cpu" and config.steps >= 5000:
            console.err.print(
                f"[bold yellow]note:[/] {config.steps:,} steps on the CPU can take days; --recipe demo takes minutes"
            )
        encoder = encoder_of_store(store, options.encoder_weights, rank.device)
        trainer = Trainer(store, encoder, config, run_dir, rank, options)
        if options.resume:
            if trainer.is_finished():
                if rank.is_main:
                    console.out.print(
                        f"this run is finished: {run_dir.weights}; raise --steps to continue it, or start another in "
                        "another --out"
                    )
                return
            if trainer.restore() and rank.is_main:
                console.out.print(f"resuming at step {trainer.step} of {config.steps}")
        callbacks: list[Callback] = []
        if rank.is_main:
            board = stack.enter_context(closing(TensorBoardLogger(run_dir.root / "tensorboard", trainer.step)))
            callbacks += [ProgressBar(), board]
            if options.pictures_every:
                callbacks.append(PictureCallback(options.pictures_every, board))
            if tasks:
                callbacks.append(ScoreCallback(options.score_every, tasks, board))
        bar.start_task(task)
        bar.update(task, completed=trainer.step)
        finished = trainer.fit(callbacks, stop=lambda: received() is not None)
    if rank.is_main and finished:
        _write_summary(trainer, time.monotonic() - started)
    elif rank.is_main:
        console.out.print(f"stopped after step {trainer.step} of {config.steps}; --resume continues from there")
    if received() is signal.SIGINT and not finished:
        raise typer.Exit(console.EXIT_INTERRUPTED)


def _write_summary(trainer: Trainer, seconds: float) -> None:
    """Write loss.png and run.json of a finished run, and print where the weights are."""
    from lila_cues.viz.charts import loss_curves
    from lila_train.training.losses import loss_titles
    from stores.atomic import atomic_path, atomic_write

    rows = trainer.run_dir.rows()
    atomic_write(loss_curves(rows, loss_titles(), "png"), trainer.run_dir.root / "loss.png")
    record = {
        "settings": trainer.config.to_dict(),
        "store": str(trainer.store.path),
        "encoder": trainer.train_step.encoder.source.to_dict(),
        "device": str(trainer.rank.device),
        "ranks": trainer.rank.world_size,
        "steps": trainer.step,
        "final_loss": rows[-1]["loss"],
        "seconds": {"this_call": round(seconds, 2), "steps": round(sum(row["seconds"] for row in rows), 2)},
    }
    with atomic_path(trainer.run_dir.record) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    console.out.print(f"{trainer.step} steps, loss {rows[-1]['loss']:.3f}: {trainer.run_dir.weights}")


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe, to list all of its settings.")] = None,
) -> None:
    """List the recipes with their hardware and expected results, and the settings of one.

    Every setting can be passed to `lila-train run` and `lila-train ablate` with --set.
    """
    for key, found in settings.RECIPES.items() if name is None else [(name, find_recipe(name))]:
        console.out.print(f"[bold]{key}[/]\n  hardware: {found.hardware}\n  expect: {found.expect}")
    if name is not None:
        for assignment in settings.assignments(find_recipe(name).config):
            console.out.print(f"  {assignment}", markup=False)
