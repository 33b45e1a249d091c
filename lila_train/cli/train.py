"""`lila-train recipes`.

`lila-train run`.

The options of `lila-train run`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lila_cues import console
from lila_train.training.config import DEFAULT, RECIPES, Recipe, TrainConfig, changed, choice, parsed, table
from lila_train.training.config import recipe as named
from stores.errors import LilaError

if TYPE_CHECKING:
    import stores
    from lila_train.evaluation.harness import Task
    from lila_train.training.callbacks import Callback, TensorBoardLogger
    from lila_train.training.run_dir import RunDir
    from lila_train.training.trainer import StepRecord, Trainer


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe, to see all of its settings.")] = None,
) -> None:
    """List the recipes: the commands to run, the hardware, the result to expect; and the settings of one.

    Every name in a recipe's list of settings can be given to `lila-train run` and `lila-train ablate` with --set.
    """
    for key, found in RECIPES.items() if name is None else [(name, named(name))]:
        console.out.print(f"[bold]{key}[/]")
        for line in _words(found):
            console.out.print(f"  {line}")
    if name is not None:
        for setting, value in table(named(name).settings):
            console.out.print(f"  {setting}={value}", markup=False)


def _words(found: Recipe) -> tuple[str, ...]:
    return (found.build, found.run, f"hardware: {found.hardware}", f"expect: {found.expect}")


LEARN, HOW, LOOK = "What is learned", "How it is computed", "What is looked at meanwhile"

Store = Annotated[Path, typer.Option(help="The cue store that lila-cues build wrote.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME for a store NAME.zarr.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or begin it.")]
RecipeName = Annotated[
    str, typer.Option(help="Named settings; `lila-train recipes` lists them.", rich_help_panel=LEARN)
]
Steps = Annotated[int | None, typer.Option(help="Steps of the optimiser.", rich_help_panel=LEARN)]
Seed = Annotated[int, typer.Option(help="Same seed, same run.", rich_help_panel=LEARN)]
BatchSize = Annotated[int | None, typer.Option(help="Pairs per step, over all ranks.", rich_help_panel=LEARN)]
Lr = Annotated[float | None, typer.Option(help="AdamW's learning rate.", rich_help_panel=LEARN)]
WeightDecay = Annotated[float | None, typer.Option(help="AdamW's weight decay.", rich_help_panel=LEARN)]
Schedule = Annotated[str | None, typer.Option(help="constant or cosine.", rich_help_panel=LEARN)]
WarmupSteps = Annotated[int | None, typer.Option(min=0, help="Steps of linear warm-up.", rich_help_panel=LEARN)]
ClipNorm = Annotated[float | None, typer.Option(help="Largest norm of the gradient.", rich_help_panel=LEARN)]
Precision = Annotated[
    str | None,
    typer.Option(help="float32 or bfloat16; the solve is always float32.", rich_help_panel=LEARN),
]
Width = Annotated[
    int | None,
    typer.Option(help="Inner width of the decoder; a feature has half of it.", rich_help_panel=LEARN),
]
ViewSize = Annotated[
    int | None,
    typer.Option(help="Side of a view in pixels, a multiple of the patch.", rich_help_panel=LEARN),
]
MaxGap = Annotated[int | None, typer.Option(help="Pairs are at most so many frames apart.", rich_help_panel=LEARN)]
Channels = Annotated[
    int | None,
    typer.Option(help="Encoder channels told per pair, of those stored.", rich_help_panel=LEARN),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting, such as objective=erm, cues=flow,depth, roles=mirrored or detach=true; may be "
        "given more than once. `lila-train recipes NAME` lists names and values.",
        rich_help_panel=LEARN,
    ),
]
Online = Annotated[
    bool,
    typer.Option(
        "--online",
        help="Compute the cues in every step instead of reading them: the baseline, slow.",
        rich_help_panel=LEARN,
    ),
]
CheckpointEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.", rich_help_panel=HOW)]
EncoderWeights = Annotated[
    Path | None, typer.Option(help="Where the encoder's weight file is now.", rich_help_panel=HOW)
]
NumWorkers = Annotated[int, typer.Option(min=0, help="Processes that read ahead.", rich_help_panel=HOW)]
Chunks = Annotated[
    int, typer.Option(min=1, help="Compute a batch in so many parts, to save memory.", rich_help_panel=HOW)
]
Compiled = Annotated[
    bool, typer.Option("--compile", help="Compile encoder and decoder with PyTorch.", rich_help_panel=HOW)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …", rich_help_panel=HOW)]
PicturesEvery = Annotated[
    int, typer.Option(min=0, help="Steps between pictures of cues and features; 0: none.", rich_help_panel=LOOK)
]
ScoreData = Annotated[
    Path | None,
    typer.Option(help="Held-out clips with masks, in the DAVIS layout, to score on.", rich_help_panel=LOOK),
]
ScoreEvery = Annotated[int, typer.Option(min=1, help="Steps between scores.", rich_help_panel=LOOK)]
ScoreLimit = Annotated[int, typer.Option(min=1, help="Score on the first so many clips.", rich_help_panel=LOOK)]


DEFAULT_STORE = Path("cues/kinetics.zarr")


def run(  # long by its options: typer reads a command's from its parameters
    store: Store = DEFAULT_STORE,
    out: Out = None,
    resume: Resume = False,
    recipe: RecipeName = DEFAULT,
    steps: Steps = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    lr: Lr = None,
    weight_decay: WeightDecay = None,
    schedule: Schedule = None,
    warmup_steps: WarmupSteps = None,
    clip_norm: ClipNorm = None,
    precision: Precision = None,
    width: Width = None,
    view_size: ViewSize = None,
    max_gap: MaxGap = None,
    channels: Channels = None,
    set_: Set = None,
    online: Online = False,
    checkpoint_every: CheckpointEvery = 1000,
    encoder_weights: EncoderWeights = None,
    num_workers: NumWorkers = 0,
    chunks: Chunks = 1,
    compiled: Compiled = False,
    device: Device = "auto",
    pictures_every: PicturesEvery = 500,
    score_data: ScoreData = None,
    score_every: ScoreEvery = 5000,
    score_limit: ScoreLimit = 3,
) -> None:
    """Train the decoder on the pairs of a cue store.

    Writes into --out: weights.safetensors, log.jsonl (the losses of every step), loss.png, run.json, tensorboard/,
    pictures/ (cues, what is read off the features, and the features) and, with --score-data, scores.jsonl (J&F by
    local k-NN and by linear probe). A run that was stopped goes on with --resume, from its last checkpoint, as if it
    had never stopped; Ctrl-C and SIGTERM make it write one first.

    On several GPUs: torchrun --nproc-per-node N -m lila_train run …
    """
    import stores
    from lila_train.training.run_dir import RunDir

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
    folder = RunDir(out or Path("runs") / store.stem)
    how = _How(resume, checkpoint_every, encoder_weights, num_workers, chunks, compiled, device)
    _train(opened, folder, settings, how, _Look(pictures_every, score_data, score_every, score_limit))


_LONG_ON_A_CPU = 5000
"""Steps from which on a run without a GPU is told that there are smaller ones."""


@dataclass(frozen=True)
class _How:
    """The options that change no result."""

    resume: bool
    checkpoint_every: int
    encoder_weights: Path | None
    num_workers: int
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
        from lila_train.training.callbacks import open_tasks

        return [] if self.score_data is None else open_tasks(self.score_data, self.score_limit)

    def callbacks(self, tasks: Sequence[Task], board: TensorBoardLogger) -> list[Callback]:
        """What was asked for."""
        from lila_train.training.callbacks import PictureCallback, ScoreCallback

        pictures = [PictureCallback(self.pictures_every, board)] if self.pictures_every else []
        return [*pictures, *([ScoreCallback(self.score_every, tasks, board)] if tasks else [])]


def _existing(store: Path) -> Path:
    if store == DEFAULT_STORE and not store.exists():
        raise LilaError(
            f"no cue store at {store}; build it with `lila-cues build --dataset kinetics`, or pass another place with "
            "--store"
        )
    return store


def _train(store: stores.CueStore, folder: RunDir, settings: TrainConfig, how: _How, look: _Look) -> None:
    from lila_cues.devices import choose
    from lila_train.training.callbacks import TensorBoardLogger
    from lila_train.training.distributed import graceful_shutdown, group
    from lila_train.training.step import Hardware
    from lila_train.training.trainer import LoopOptions, Trainer, encoder_of_store

    device, tasks = choose(how.device), look.tasks()
    began = time.monotonic()
    with ExitStack() as stack:
        rank, asked = stack.enter_context(group(device)), stack.enter_context(graceful_shutdown())
        bar = stack.enter_context(console.progress("steps"))
        if rank.is_main:
            folder.claim(resume=how.resume)
            if device.type == "cpu" and settings.steps >= _LONG_ON_A_CPU:
                console.err.print(
                    f"[bold yellow]note:[/] {settings.steps:,} steps on the CPU can take days; --recipe demo takes "
                    "minutes"
                )
        task = bar.add_task("train", total=settings.steps, start=False, visible=rank.is_main)

        def show(row: StepRecord) -> None:
            bar.update(task, completed=row.step + 1, description=f"loss {row.loss:.3f}")

        encoder = encoder_of_store(store, how.encoder_weights, device)
        hardware = Hardware(device, rank, how.chunks, how.compiled)
        running = LoopOptions(how.num_workers, how.checkpoint_every, (show,), lambda: asked() is not None)
        trainer = Trainer(store, encoder, settings, folder, hardware, running)
        if how.resume and _taken_up(trainer):
            return
        if rank.is_main:
            board = stack.enter_context(closing(TensorBoardLogger(folder.root / "tensorboard", trainer.step)))
            observers, callbacks = (show, board.losses), look.callbacks(tasks, board)
            trainer.running = replace(running, observers=observers, callbacks=callbacks)
        bar.start_task(task)
        bar.update(task, completed=trainer.step)
        whole = trainer.run()
    if rank.is_main:
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
    from lila_cues.viz.charts import draw_losses

    if not whole:
        console.out.print(f"stopped after step {trainer.step} of {trainer.settings.steps}; --resume goes on from there")
        return
    rows = trainer.folder.rows()
    draw_losses(rows, trainer.folder.picture)
    trainer.folder.write_record(
        {
            "settings": trainer.settings.to_dict(),
            "store": str(trainer.store.path),
            "encoder": trainer.train_step.encoder.source.to_dict(),
            "device": str(trainer.hardware.device),
            "ranks": trainer.hardware.rank.world_size,
            "steps": trainer.step,
            "final_loss": rows[-1]["loss"],
            "seconds": {"this_call": round(seconds, 2), "steps": round(sum(row["seconds"] for row in rows), 2)},
        }
    )
    console.out.print(f"{trainer.step} steps, loss {rows[-1]['loss']:.3f}: {trainer.folder.weights}")
