"""`lila-train ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lila_train.commands.options import Device, EncoderWeights
from lila_train.training.overrides import changed, parsed
from stores import console
from stores.errors import LilaError

if TYPE_CHECKING:
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
    loader_processes: Annotated[int, typer.Option(min=0, help="Processes that read ahead.")] = 0,
    device: Device = "auto",
) -> None:
    """Rerun the paper's ablations on a store, and put the table of differences beside the published one.

    Every row is trained with every seed and scored by local k-NN label propagation, or by the protocols that are named;
    what is done is kept and read again. Writes ablations.html, .md and .csv, a chart per protocol and one over steps
    into --out.
    """
    import stores
    from lila_train.devices import choose
    from lila_train.evaluation import Options, open_task
    from lila_train.training.ablation_study import Study
    from lila_train.training.ablations import rows as named
    from lila_train.training.learner import Hardware
    from lila_train.training.recipes import recipe as settings_of
    from lila_train.training.trainer import encoder_of_store

    chosen = named(rows)
    opened = stores.open(store)
    settings = settings_of(recipe).settings
    settings = changed(settings, {"steps": steps or settings.steps, "seed": 0} | parsed(settings, set_ or ()))
    settings.check_store(opened)
    target = choose(device)
    tasks = [open_task(name, data, Options(limit=limit)) for name in _with_published_figures(protocol)]
    encoder = encoder_of_store(opened, encoder_weights, target)
    study = Study(
        opened, encoder, settings, tasks, out, Hardware(target), loader_processes, encoder_weights, score_every
    )
    with console.progress("steps") as bar:
        shown = bar.add_task("ablations", total=settings.steps * len(chosen) * seeds)

        def observe(name: str, steps: int, loss: float | None) -> None:
            bar.update(shown, advance=steps, description=name if loss is None else f"{name}: loss {loss:.3f}")

        findings = study.carry_out(chosen, range(seeds), observe)
    from lila_train.report import AblationTable, write_ablations

    tables = [AblationTable(finding) for finding in findings]
    losses = {row.label: study.losses(row, range(seeds)) for row in chosen}
    write_ablations(out, tables, _caption(study, store), losses)
    for table in tables:
        console.out.print(table.markdown())
    console.out.print(f"{out / 'ablations.html'}")


def _with_published_figures(protocols: list[str]) -> list[str]:
    from lila_train.report.ablations import PUBLISHED_FIELDS

    for name in protocols:
        if name not in PUBLISHED_FIELDS:
            raise LilaError(f"expected --protocol to be one of {', '.join(PUBLISHED_FIELDS)}, found {name}")
    return list(dict.fromkeys(protocols))


def _caption(study: Study, store: Path) -> str:
    task, settings = study.tasks[0], study.settings
    counts = ", ".join(f"{count} {what}" for what, count in task.counts().items())
    return (
        f"J&F in percent on {task.root} ({counts}); trained on {store}, {settings.steps} steps of "
        f"{settings.batch_size} pairs at {settings.method.view_size} px, learning rate {settings.learning_rate:g}, "
        f"decoder {study.decoder_width} wide, encoder {study.encoder.name}."
    )
