"""`lila-train ablate`.

`lila-train eval`.

`lila-train report`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lila_cues import console
from lila_train.cli.inference import Device, EncoderWeights
from lila_train.training.config import RunOptions, changed, find_recipe, parse_assignments
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_train.evaluation.harness import Task
    from lila_train.training.ablation_study import Study


PROTOCOLS = ["davis-knn@lila"]


def ablate(  # long by its options, as `run` is
    store: Annotated[Path, typer.Option(help="The cue store; one serves all rows.")],
    data: Annotated[Path, typer.Option(help="A folder in the DAVIS layout, to score on.")],
    out: Annotated[Path, typer.Option(help="Runs, scores and the table; a stopped study goes on here.")],
    rows: Annotated[str, typer.Option(help="all, cues, components, or names of rows, with commas.")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N − 1 of each row.")] = 3,
    recipe: Annotated[str, typer.Option(help="The settings that every row changes.")] = "demo",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every run.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of every run, as in lila-train run."),
    ] = None,
    protocol: Annotated[
        list[str], typer.Option(help="davis-knn@lila, davis-lp@lila; may be given more than once.")
    ] = PROTOCOLS,
    limit: Annotated[int | None, typer.Option(min=1, help="Score on the first so many sequences.")] = None,
    score_every: Annotated[
        int | None, typer.Option(min=1, help="Score every run after so many steps too, for curves.")
    ] = None,
    encoder_weights: EncoderWeights = None,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that read ahead.")] = 0,
    device: Device = "auto",
) -> None:
    """Rerun the paper's ablations on a store, and put the table of differences beside the published one.

    Every row is trained with every seed and scored by local k-NN label propagation, or by the protocols that are named;
    what is done is kept and read again. Writes ablations.html, .md and .csv, a chart per protocol and one over steps
    into --out.
    """
    import stores
    from lila_cues.devices import choose
    from lila_train.evaluation.harness import Options
    from lila_train.evaluation.protocols import open_task
    from lila_train.training.ablation_study import Study
    from lila_train.training.ablations import rows as named
    from lila_train.training.distributed import Rank
    from lila_train.training.targets import check_store
    from lila_train.training.trainer import encoder_of_store

    chosen = named(rows)
    opened = stores.open(store)
    config = find_recipe(recipe).config
    config = changed(config, {"steps": steps or config.steps, "seed": 0} | parse_assignments(set_ or ()))
    check_store(config, opened)
    target = choose(device)
    tasks = [open_task(name, data, Options(limit=limit)) for name in _with_published_figures(protocol)]
    encoder = encoder_of_store(opened, encoder_weights, target)
    options = RunOptions(num_workers=num_workers, encoder_weights=encoder_weights)
    study = Study(opened, encoder, config, tasks, out, Rank(device=target), options, score_every)
    with console.progress("steps") as bar:
        shown = bar.add_task("ablations", total=config.steps * len(chosen) * seeds)

        def observe(name: str, steps: int, loss: float | None) -> None:
            bar.update(shown, advance=steps, description=name if loss is None else f"{name}: loss {loss:.3f}")

        findings = study.run(chosen, range(seeds), observe)
    from lila_train.report.ablations import markdown, write_ablations

    losses = {row.label: study.losses(row, range(seeds)) for row in chosen}
    write_ablations(out, findings, _caption(study, store), losses)
    for finding in findings:
        console.out.print(markdown(finding))
    console.out.print(f"{out / 'ablations.html'}")


def _with_published_figures(protocols: list[str]) -> list[str]:
    from lila_train.report.ablations import PUBLISHED_FIELDS

    for name in protocols:
        if name not in PUBLISHED_FIELDS:
            raise LilaError(f"expected --protocol to be one of {', '.join(PUBLISHED_FIELDS)}, found {name}")
    return list(dict.fromkeys(protocols))


def _caption(study: Study, store: Path) -> str:
    task, config = study.tasks[0], study.config
    counts = ", ".join(f"{count} {what}" for what, count in task.counts().items())
    return (
        f"J&F in percent on {task.root} ({counts}); trained on {store}, {config.steps} steps of "
        f"{config.batch_size} pairs at {config.view_size} px, learning rate {config.learning_rate:g}, "
        f"decoder {study.decoder_width} wide, encoder {study.encoder.name}."
    )


MIB = 2**20


Protocol = Annotated[
    str, typer.Argument(metavar="PROTOCOL", help="Its id, such as davis-knn@lila; a wrong one is answered with all.")
]
Out = Annotated[Path, typer.Option(help="Where the result and the predictions go; an interrupted run goes on there.")]
Data = Annotated[Path | None, typer.Option(help="The data set's folder; $LILA_DATA/NAME or data/NAME if not given.")]
Weights = Annotated[
    Path | None,
    typer.Option(help="weights.safetensors of a run, or a published LILA file or name: scores its encoder, and it."),
]
Encoder = Annotated[str | None, typer.Option(help="Instead: a frozen encoder by name, alone (or below a baseline).")]
EvalEncoderWeights = Annotated[Path | None, typer.Option(help="The encoder's weight file.")]
Baseline = Annotated[
    str | None,
    typer.Option(help="Instead: somebody else's model by name; its code runs here. A wrong name is answered with all."),
]
BaselineRepo = Annotated[
    Path | None, typer.Option(help="A clone of its repository; fetched at a fixed revision if not given.")
]
BaselineWeights = Annotated[
    Path | None, typer.Option(help="Its weight file; from where its authors put it if not given.")
]
Texts = Annotated[Path | None, typer.Option(help="Embeddings of the classes as .npy, for the protocols with texts.")]
Clip = Annotated[str | None, typer.Option(help="CLIP for these protocols, a hub name or a folder, in place of theirs.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many sequences or images.")]
Seed = Annotated[int, typer.Option(help="Of what is trained on top; nothing is in k-NN.")]
ShortSide = Annotated[
    int | None, typer.Option(min=16, help="Short side of the frames in pixels, in place of the protocol's.")
]
MemoryMb = Annotated[
    int | None,
    typer.Option(min=1, help="Bound on temporary memory (48 on a CPU, 512 on a GPU); changes no figure."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Parts computed side by side; on a CPU as many as it has cores for.")
]


def evaluate(
    protocol: Protocol,
    out: Out,
    data: Data = None,
    weights: Weights = None,
    encoder: Encoder = None,
    encoder_weights: EvalEncoderWeights = None,
    baseline: Baseline = None,
    baseline_repo: BaselineRepo = None,
    baseline_weights: BaselineWeights = None,
    texts: Texts = None,
    clip: Clip = None,
    limit: Limit = None,
    seed: Seed = 0,
    short_side: ShortSide = None,
    memory_mb: MemoryMb = None,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Score features by a protocol.

    Writes result.json (figures, settings, counts, fingerprint) and the predictions as indexed PNGs into --out. With
    --weights the encoder alone and the trained model are scored in one run. A finished evaluation is shown again
    without computing; a folder that holds another one is refused.
    """
    from lila_cues.devices import choose
    from lila_train.evaluation.harness import Options, default_workers
    from lila_train.evaluation.harness import evaluate as run
    from lila_train.evaluation.model_spec import ModelSpec
    from lila_train.evaluation.protocols import open_task

    spec = ModelSpec(weights, encoder, encoder_weights, baseline, baseline_repo, baseline_weights)
    task = open_task(protocol, data, Options(limit, seed, short_side, memory_mb and memory_mb * MIB, texts, clip))
    _announce(task)
    chosen = choose(device)
    result = run(task, spec, out, chosen, workers or default_workers(chosen))
    _show(result, out)


def _announce(task: Task) -> None:
    console.out.print(f"[bold]{task.protocol}[/]: {_listed(task.counts())}")
    console.out.print(f"settings: {_listed(task.settings)}")


def _show(result: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    from lila_train.report.tables import metric_text

    console.out.print(f"sizes: {_listed(result['derived'])}")
    names = list(next(iter(result["scores"].values())))
    table = Table("", *names, title=f"{result['protocol']} ({_listed(result['counts'])})", title_justify="left")
    for head, figures in result["scores"].items():
        table.add_row(head, *(metric_text(name, figures[name]) for name in names))
    console.out.print(table)
    console.out.print(f"{out / 'result.json'} ({sum(result['seconds'].values()):.1f} s)")


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'–' if value is None else value}" for name, value in values.items())


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RESULTS]…", help="Folders of lila-train eval, or their result.json."),
    ] = None,
    demo: Annotated[
        Path | None, typer.Option(help="Instead: a demo run's folder, with cues.zarr, train and eval in it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the report on RESULTS goes.")] = Path("runs/report"),
    device: Device = "auto",
) -> None:
    """Show what came of it, as HTML files that need nothing else.

    RESULTS give one table per task (HTML, Markdown, CSV), with published figures beside, marked as such. --demo writes
    DIR/report/index.html and summary.json; a page that is there for the same inputs is left as it is.
    """
    if (demo is None) == (not results):
        raise LilaError(
            "expected folders of lila-train eval to report on, or a demo's folder; pass RESULTS or --demo DIR"
        )
    if results:
        from lila_train.report.comparison import write_comparison

        console.out.print("\n".join(str(path) for path in write_comparison(results, out)))
    if demo is not None:
        from lila_cues.devices import choose
        from lila_train.report.demo import write_demo_report

        made = write_demo_report(demo, choose(device))
        console.out.print(f"{made.page}{'' if made.fresh else ' (up to date)'}")
