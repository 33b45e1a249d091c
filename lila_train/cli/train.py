"""`lila-train run` and `lila-train recipes`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import fields
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from lila_cues import console, devices
from lila_train.training.config import DEFAULT_RECIPE, RECIPES, RunOptions, TrainConfig, find_recipe
from stores.errors import LilaError

if TYPE_CHECKING:
    from rich.table import Table

    import stores
    from lila_train.evaluation.harness import Task
    from lila_train.training.distributed import Rank
    from lila_train.training.trainer import Callback, StepRecord, Trainer

DEFAULT_STORE = "cues/kinetics.zarr"

_objective = partial(typer.Option, rich_help_panel="Objective and optimization")
_execution = partial(typer.Option, rich_help_panel="Execution")
_logging = partial(typer.Option, rich_help_panel="Logging and validation")

DEVICE_BATCH_SIZE = "Most pairs of one forward pass, to save memory; same result. Default: a rank's share of the batch."
NUM_WORKERS = (
    "Loader processes; 0: load in the main process. Default: for a GPU one for each core of the rank, up to 8, else 0."
)
JOIN_TIMEOUT = "Seconds to wait for the other ranks of torchrun."
LOGGER = "Another logger beside log.jsonl and TensorBoard: wandb (Weights & Biases; WANDB_MODE=offline writes files)."
ESTIMATE_STEPS = 10
RECIPE = f"Named settings; `lila-train recipes` lists them. Default: {DEFAULT_RECIPE}."
SET = "Any other setting, such as objective=erm, cues=flow,depth or edge_weight=0; may be given more than once."


def run(
    store: Annotated[
        str, typer.Option(help="Cue store written by lila-cues build: a folder or a URL.")
    ] = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/NAME for a store NAME.zarr.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out and start again.")] = False,
    recipe: Annotated[str | None, _objective(help=RECIPE)] = None,
    config: Annotated[Path | None, _objective(help="Instead: run.json of a run, to take its settings.")] = None,
    steps: Annotated[int | None, _objective(help=TrainConfig.help("steps"))] = None,
    seed: Annotated[int | None, _objective(help=TrainConfig.help("seed"))] = None,
    batch_size: Annotated[int | None, _objective(help=TrainConfig.help("batch_size"))] = None,
    lr: Annotated[float | None, _objective(help=TrainConfig.help("lr"))] = None,
    precision: Annotated[str | None, _objective(help=TrainConfig.help("precision"))] = None,
    crop_size: Annotated[int | None, _objective(help=TrainConfig.help("crop_size"))] = None,
    shuffle: Annotated[str | None, _objective(help=TrainConfig.help("shuffle"))] = None,
    set_: Annotated[list[str] | None, _objective("--set", metavar="NAME=VALUE", help=SET)] = None,
    device: Annotated[str, _execution(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    num_workers: Annotated[int | None, _execution(min=0, help=NUM_WORKERS)] = None,
    device_batch_size: Annotated[int | None, _execution(min=1, help=DEVICE_BATCH_SIZE)] = None,
    compile: Annotated[bool, _execution("--compile", help="Compile the arithmetic of a step with PyTorch.")] = False,
    checkpoint_every: Annotated[int, _execution(min=1, help="Steps between checkpoints.")] = 1000,
    encoder_weights: Annotated[Path | None, _execution(help="The encoder's weight file, if it has moved.")] = None,
    backend: Annotated[str | None, _execution(help="nccl or gloo. Default: nccl on GPUs, gloo on CPUs.")] = None,
    join_timeout: Annotated[float, _execution(min=1, help=JOIN_TIMEOUT)] = 600.0,
    pictures_every: Annotated[int, _logging(min=0, help="Steps between pictures of cues and features; 0: none.")] = 500,
    logger: Annotated[list[str] | None, _logging(help=LOGGER)] = None,
    score_data: Annotated[Path | None, _logging(help="Held-out clips with masks, in the DAVIS layout.")] = None,
    score_every: Annotated[int, _logging(min=1, help="Steps between scores.")] = 5000,
    score_limit: Annotated[int, _logging(min=1, help="Number of clips to score on.")] = 3,
) -> None:
    """Train the decoder on pairs of frames of a cue store. Run the same command again to continue.

    Writes into --out: weights.safetensors, run.json (settings, result), log.jsonl (the losses of every step), loss.png,
    tensorboard/, pictures/ (cues, their predictions, and the features), checkpoints/ and, with --score-data,
    scores.jsonl (J&F by local k-NN and by linear probe). Ctrl-C and SIGTERM write a checkpoint and end with status 130
    or 143; a run that continues gives the same result as without the interruption. More --steps continue a finished
    run.

    On several GPUs: torchrun --nproc-per-node N -m lila_train run …
    """
    given = locals() | {"loggers": tuple(name for name in dict.fromkeys(logger or ()) if name != "tensorboard")}
    from lila_train.training import distributed

    options = RunOptions(**{field.name: given[field.name] for field in fields(RunOptions)})
    with (
        distributed.init(options.device, options.backend, options.join_timeout) as rank,
        distributed.graceful_shutdown() as received,
    ):
        with rank.together():
            resolved = _base(recipe, config).replace(**TrainConfig.given(given, set_))
            opened = _open_store(store, resolved)
        stopped = train(
            opened, out or Path("runs") / PurePosixPath(opened.path).stem, resolved, options, rank, received
        )
    if stopped:
        console.err.quiet = not rank.is_main
        raise typer.Exit(128 + stopped)


def _base(recipe: str | None, config: Path | None) -> TrainConfig:
    """Return the settings that the options change: a recipe's, or those of another run."""
    if config is None:
        return find_recipe(recipe or DEFAULT_RECIPE).config
    if recipe is not None:
        raise LilaError("expected --recipe or --config, found both; leave one out")
    return TrainConfig.from_file(config, "the run.json of a run")


def _open_store(place: str, config: TrainConfig) -> stores.CueStore:
    import stores
    from lila_train.training.targets import check_store, training_clips

    if place == DEFAULT_STORE and not Path(place).exists():
        raise LilaError(
            f"no cue store at {place}; build it with `lila-cues build --dataset kinetics`, or pass another with --store"
        )
    store = stores.open(place)
    training_clips(store)
    check_store(config, store)
    return store


def train(
    store: stores.CueStore,
    out: Path,
    config: TrainConfig,
    options: RunOptions,
    rank: Rank,
    received: Callable[[], signal.Signals | None],
) -> signal.Signals | None:
    """Train or continue the run in `out`, with progress on the terminal; return the signal that stopped it, or None."""
    from lila_train.training.callbacks import open_tasks
    from lila_train.training.run_dir import RunDir
    from lila_train.training.trainer import Trainer, encoder_of_store

    started = time.monotonic()
    with rank.together():
        if options.compile:
            devices.require_compiler(rank.device)
        tasks = open_tasks(options.score_data, options.score_limit) if options.score_data and rank.is_main else []
        run_dir = RunDir.open(out, config, store, overwrite=options.overwrite) if rank.is_main else RunDir(out)
    if rank.is_main and rank.device.type == "cpu" and config.steps >= 5000:
        hint = f"{config.steps:,} steps on the CPU can take days; --recipe demo takes minutes"
        console.err.print(console.bold("note:", "yellow"), hint)
    with rank.together():
        encoder = encoder_of_store(store, options.encoder_weights, rank.device)
        trainer = Trainer(store, encoder, config, run_dir, rank, options)
    if rank.on_main(trainer.is_finished):
        if rank.is_main:
            console.out.print(
                f"this run is finished: {run_dir.weights}; raise --steps to continue it, or pass --overwrite to start "
                "again"
            )
        return None
    restored = trainer.restore()
    if not rank.is_main:
        return trainer.fit((), received)
    console.out.print(announcement(trainer))
    if restored:
        console.out.print(f"resuming at step {trainer.step} of {config.steps}")
    with ExitStack() as stack:
        if stopped := trainer.fit(_callbacks(trainer, tasks, stack), received):
            console.out.print(
                f"stopped after step {trainer.step} of {config.steps}; the same command continues from there"
            )
            return stopped
    _write_summary(trainer, time.monotonic() - started)
    return None


def _callbacks(trainer: Trainer, tasks: Sequence[Task], stack: ExitStack) -> list[Callback]:
    """Return what follows a run: progress bar, loggers, pictures, and scores on `tasks`; `stack` closes them."""
    from lila_train.training.callbacks import PictureCallback, ScoreCallback, open_logger

    config, options, times = trainer.config, trainer.options, list[float]()
    bar = stack.enter_context(console.progress("steps"))
    task = bar.add_task("train", total=config.steps, completed=trainer.step, before=trainer.step)

    def show_progress(run: Trainer, record: StepRecord) -> None:
        bar.update(task, description=f"loss {record.loss:.3f}")
        bar.advance(task)
        if len(times) < ESTIMATE_STEPS:
            times.append(record.seconds)
            if len(times) == ESTIMATE_STEPS and run.step < config.steps:
                mean = sum(times[1:]) / (ESTIMATE_STEPS - 1)  # the first one warms up
                left = console.duration(mean * (config.steps - run.step))
                console.err.print(f"about {left} left, at {mean:.2g} s a step")

    names = ("tensorboard", *options.loggers)
    loggers = [open_logger(name, trainer.run_dir, config, trainer.step) for name in names]
    for logger in loggers:
        stack.enter_context(closing(logger))
    callbacks: list[Callback] = [show_progress, *loggers]
    if options.pictures_every:
        callbacks.append(PictureCallback(options.pictures_every, loggers))
    if tasks:
        scored = {*range(options.score_every, config.steps, options.score_every), config.steps}
        callbacks.append(ScoreCallback(scored, tasks, loggers))
    return callbacks


def announcement(trainer: Trainer) -> Table:
    """Return a table of what will be trained."""
    config, step, source = trainer.config, trainer.train_step, trainer.train_step.encoder.source
    table = console.facts(f"Training {trainer.run_dir.root}")
    table.add_row("store", f"{trainer.store.path}, {len(trainer.clips):,} clips")
    table.add_row("encoder", f"{source.network} ({source.location}), frozen, license: {source.licence}")
    learned = sum(parameter.numel() for parameter in step.parameters.values())
    table.add_row("trained", f"{learned:,} parameters; {step.decoder.widths.out} features a pixel")
    table.add_row("objective", f"{config.objective}, cues {', '.join(config.cues)}")
    pairs = console.counted({"pairs": config.batch_size})
    table.add_row("steps", f"{config.steps:,} of {pairs} at {config.crop_size} px, lr {config.lr:g}")
    ranks = f", {trainer.rank.world_size} ranks" * (trainer.rank.world_size > 1)
    table.add_row("device", f"{trainer.rank.device}{ranks}, {config.precision}, seed {config.seed}")
    return table


def _write_summary(trainer: Trainer, seconds: float) -> None:
    """Write loss.png and run.json of a finished run, and print where the weights are."""
    from lila_cues.viz.charts import loss_curves
    from lila_train.training.losses import loss_titles
    from stores.atomic import atomic_write

    rows = trainer.run_dir.rows()
    atomic_write(loss_curves(rows, loss_titles(), "png"), trainer.run_dir.root / "loss.png")
    trainer.run_dir.add_to_record(
        store=str(trainer.store.path),
        encoder=trainer.train_step.encoder.source.to_dict(),
        versions=trainer.provenance().versions,
        device=str(trainer.rank.device),
        ranks=trainer.rank.world_size,
        steps=trainer.step,
        final_loss=rows[-1]["loss"],
        seconds={"this_call": round(seconds, 2), "steps": round(sum(row["seconds"] for row in rows), 2)},
    )
    root, data = trainer.run_dir.root, trainer.options.score_data or "DAVIS"
    console.out.print(
        f"{trainer.step} steps, loss {rows[-1]['loss']:.3f}: {trainer.run_dir.weights}\n"
        f"next: lila-train features VIDEO --weights {root} --out {root}/features\n"
        f"      lila-train eval davis-knn@lila --data {data} --weights {root} --out {root}/eval"
    )


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe, to list all of its settings.")] = None,
) -> None:
    """List the recipes with their hardware and expected results, and the settings of one.

    Every setting can be passed to `lila-train run` and `lila-train ablate` with --set.
    """
    for key, found in RECIPES.items() if name is None else [(name, find_recipe(name))]:
        console.out.print(console.bold(key))
        console.out.print(f"  hardware: {found.hardware}\n  expect: {found.expect}")
    if name is not None:
        for assignment in find_recipe(name).config.assignments():
            console.out.print(f"  {assignment}")
