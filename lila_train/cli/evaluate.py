"""`lila-train eval`, `ablate` and `report`: scores of features, and the pages that show them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lila_cues import console
from lila_train.cli.inference import Device, EncoderWeights, Overwrite
from lila_train.cli.train import NUM_WORKERS
from lila_train.evaluation.config import EvalConfig
from stores.errors import LilaError

MIB = 2**20


DATA = {
    "davis": "DAVIS-2017 or DAVIS-2016 val at 480p, or other clips in that layout",
    "SPair-71k": "SPair-71k as it is distributed",
    "tapvid-davis": "one .npz per video, converted from TAP-Vid's pickle",
    "nyuv2": "NYUv2 with depth and, if there, normals",
    "cocostuff": "COCO-Stuff 164k with the curated lists",
    "ade20k": "ADEChallengeData2016",
}


def _list_protocols(wanted: bool | None) -> None:
    """Print every protocol with its data, metrics, options and settings, and end the command."""
    if not wanted:
        return
    from lila_train.evaluation.protocols import PROTOCOLS
    from lila_train.report.tables import TITLES, listed, metric, task_of

    for name, entry in PROTOCOLS.items():
        console.out.print(console.bold(name), f" {TITLES.get(task_of(name), '')}")
        console.out.print(f"  data      {DATA.get(entry.dataset, entry.dataset)}: --data, $LILA_DATA/{entry.dataset}")
        console.out.print(f"  metrics   {', '.join(metric(each).heading for each in entry.metrics)}")
        console.out.print(f"  options   {', '.join(map(EvalConfig.option, entry.options))}")
        console.out.print(f"  settings  {listed(entry.settings)}\n")
    raise typer.Exit


def evaluate(
    protocol: Annotated[str, typer.Argument(metavar="PROTOCOL", help="Id such as davis-knn@lila; --list shows all.")],
    out: Annotated[Path, typer.Option(help="Folder for the result and the predictions.")],
    _list: Annotated[
        bool | None,
        typer.Option("--list", is_eager=True, callback=_list_protocols, help="List the protocols, and score nothing."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data set. Default: $LILA_DATA/NAME or data/NAME.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder of a run, its weight file, a published file or name; scores it and its encoder."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Instead: a frozen encoder by name, alone or below a baseline or a decoder's .pt file."),
    ] = None,
    encoder_weights: Annotated[Path | None, typer.Option(help="Weight file of the encoder.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Instead: a model of other authors by name, or a .py file. Its code runs with your rights."),
    ] = None,
    baseline_repo: Annotated[
        Path | None, typer.Option(help="Clone of its repository. Default: fetched at a pinned revision.")
    ] = None,
    baseline_weights: Annotated[
        Path | None, typer.Option(help="Its weight file. Default: downloaded from its authors.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help=EvalConfig.help("limit"))] = None,
    seed: Annotated[int | None, typer.Option(help=EvalConfig.help("seed"))] = None,
    short_side: Annotated[int | None, typer.Option(help=EvalConfig.help("short_side"))] = None,
    texts: Annotated[Path | None, typer.Option(help=EvalConfig.help("texts"))] = None,
    clip: Annotated[str | None, typer.Option(help=EvalConfig.help("clip"))] = None,
    fast_probe: Annotated[bool, typer.Option("--fast-probe", help=EvalConfig.help("fast_probe"))] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Another setting of the protocol, such as topk=10; --list shows all."
        ),
    ] = None,
    overwrite: Overwrite = False,
    memory_mb: Annotated[
        int | None,
        typer.Option(min=1, help="Limit of temporary memory in MiB; changes no result. Default: CPU 48, GPU 512."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Parts computed in parallel. Default: the number of cores on a CPU.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Score features by a protocol; `lila-train eval --list` shows the protocols.

    Writes result.json (metrics, settings, counts, fingerprint) and the predictions as indexed PNGs into --out. With
    --weights the encoder alone and the trained model are scored in one run. Run the same command again to resume; a
    finished result is shown without computing, and a folder with an evaluation of other settings is refused. Changed
    settings become part of the id, as in davis-knn@lila+limit=3, and such results have tables of their own.
    """
    arguments = locals()
    from rich.table import Table

    from lila_cues import devices
    from lila_train.evaluation import harness
    from lila_train.evaluation.model_spec import ModelSpec
    from lila_train.evaluation.protocols import open_task
    from lila_train.report.tables import in_order, listed, metric, metric_text, weights_of

    spec = ModelSpec(encoder, encoder_weights, baseline_repo, baseline_weights, weights, baseline)
    config = EvalConfig(**EvalConfig.given(arguments, set_))
    task = open_task(protocol, data, config, memory_mb and memory_mb * MIB)
    console.out.print(console.bold(f"{task.config.evaluation_id(protocol)}:"), console.counted(task.counts()))
    console.out.print(f"settings: {listed(task.settings)}")
    target = devices.choose(device)
    parallel = workers or harness.default_workers(target)
    result = harness.evaluate(task, spec, out, target, parallel, overwrite=overwrite)
    console.out.print(f"sizes: {listed(result['derived'])}")
    names = in_order(next(iter(result["scores"].values())))
    headings = [metric(name).heading for name in names]
    percent = ", in percent" * any(metric(name).scale == 100 for name in names)
    table = Table(
        "",
        *headings,
        title=f"{result['protocol']}{percent} ({console.counted(result['counts'])})",
        title_justify="left",
    )
    for head, metrics in result["scores"].items():
        table.add_row(head, *(metric_text(name, metrics[name]) for name in names))
    console.out.print(table)
    for head in result["scores"]:
        console.out.print(f"weights of {head}: {weights_of(result['model'], head) or '–'}")
    kept, wall = result.get("earlier_parts"), result.get("wall_seconds")
    time = "" if wall is None else f" ({wall:.1f} s{f', beside {kept} parts of an earlier call' if kept else ''})"
    console.out.print(f"{out / 'result.json'}{time}")


def ablate(
    store: Annotated[str, typer.Option(help="Cue store, the same for all rows: a folder or a URL.")],
    data: Annotated[Path, typer.Option(help="Folder in the DAVIS layout, to score on.")],
    out: Annotated[Path, typer.Option(help="Folder for runs, scores and the tables.")],
    rows: Annotated[str, typer.Option(help="all, cues, components, or names of rows, comma-separated.")] = "all",
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A row of your own, with settings as of --set, by spaces; may be repeated."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds of each row, from 0.")] = 3,
    recipe: Annotated[str, typer.Option(help="Settings that every row changes.")] = "demo",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every run. Default: the recipe's.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of every run, as in lila-train run."),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="davis-knn@lila or davis-lp@lila; may be repeated. Default: davis-knn@lila."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help=EvalConfig.help("limit"))] = None,
    fast_probe: Annotated[bool, typer.Option("--fast-probe", help=EvalConfig.help("fast_probe"))] = False,
    overwrite: Overwrite = False,
    score_at: Annotated[
        str, typer.Option(help="Steps after which runs are scored too, for curves, such as 500,1000,2000.")
    ] = "",
    encoder_weights: EncoderWeights = None,
    num_workers: Annotated[int | None, typer.Option(min=0, help=NUM_WORKERS)] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Rows trained side by side, by one thread or one GPU each.")] = 1,
    device: Device = "auto",
) -> None:
    """Repeat the paper's ablations on a store, compare the differences with the published ones, or vary settings.

    Every row is trained with every seed and scored by local k-NN label propagation, or by the protocols given. Run the
    same command again to resume; a folder of other settings is refused. Writes ablations.html, .md and .csv, and
    charts, into --out.
    """
    import stores
    from lila_cues import devices
    from lila_train.evaluation.models import ENCODER
    from lila_train.model.decoder import DecoderWidths
    from lila_train.outputs import open_folder
    from lila_train.report.ablations import PUBLISHED_FIELDS, markdown, write_ablations
    from lila_train.training.ablation_study import Scores, Study
    from lila_train.training.ablations import ROWS
    from lila_train.training.ablations import rows as rows_named
    from lila_train.training.callbacks import open_tasks
    from lila_train.training.config import RunOptions, TrainConfig, find_recipe
    from lila_train.training.distributed import Rank
    from lila_train.training.targets import check_store, training_clips
    from lila_train.training.trainer import encoder_of_store

    chosen = rows_named(rows, vary or ())
    try:
        scored = [int(step) for step in score_at.split(",") if step.strip()]
    except ValueError:
        raise LilaError(f"expected --score-at to be numbers of steps such as 500,1000, found {score_at}") from None
    opened = stores.open(store)
    config = find_recipe(recipe).config.replace(**TrainConfig.given({"steps": steps, "seed": 0}, set_))
    training_clips(opened)
    for row in chosen:
        check_store(config.replace(**row.changes), opened)
    protocols = list(dict.fromkeys(protocol or ["davis-knn@lila"]))
    for name in protocols:
        if name not in PUBLISHED_FIELDS:
            raise LilaError(f"expected --protocol to be one of {', '.join(PUBLISHED_FIELDS)}, found {name}")
    target = devices.choose(device)
    tasks = open_tasks(data, limit, protocols, fast_probe)
    named = [path for path in out.glob("*/seed-*") if path.parent.name in ROWS or "=" in path.parent.name]
    own = [out / ENCODER, *named]
    evaluation = EvalConfig(limit=limit, fast_probe=fast_probe)
    shaping = {"training": config.shaping(), "store": opened.fingerprint, "evaluation": evaluation.shaping()}
    open_folder(out, "ablate.json", shaping, own, overwrite)
    encoder = encoder_of_store(opened, encoder_weights, target)
    options = RunOptions(num_workers=num_workers, encoder_weights=encoder_weights)
    study = Study(opened, encoder, config, tasks, out, Rank(device=target), options, scored)
    with console.progress("steps", elapsed=True) as bar:
        shown = bar.add_task("ablations", total=config.steps * len(chosen) * seeds)

        def observe(name: str, steps: int, loss: float | None) -> None:
            bar.update(shown, description=name if loss is None else f"{name}: loss {loss:.3f}")
            bar.advance(shown, steps)

        def on_row_done(name: str, scores: Scores, seconds: float) -> None:
            by_protocol = ", ".join(f"J&F {score.total:.1f} by {protocol}" for protocol, score in scores.items())
            console.out.print(f"{name}: {by_protocol} ({console.duration(seconds)})")

        findings = study.run(chosen, range(seeds), observe, on_row_done, jobs)
    counts, pairs = console.counted(tasks[0].counts()), console.counted({"pairs": config.batch_size})
    caption = (
        f"J&F in percent on {tasks[0].data.root} ({counts}); trained on {opened.path}, {config.steps} steps of "
        f"{pairs} at {config.crop_size} px, learning rate {config.lr:g}, "
        f"decoder {DecoderWidths.of_encoder(encoder.width, config.decoder_width).inner} wide, encoder {encoder.name}."
    )
    write_ablations(out, findings, caption, {row.label: study.losses(row, range(seeds)) for row in chosen})
    for finding in findings:
        console.out.print(markdown(finding))
    console.out.print(f"{out / 'ablations.html'}")


def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RESULTS]…", help="Folders of lila-train eval, or their result.json."),
    ] = None,
    demo: Annotated[
        Path | None, typer.Option(help="Instead: folder of a demo run, with cues.zarr, train and eval.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report on RESULTS.")] = Path("runs/report"),
    device: Device = "auto",
) -> None:
    """Write a report as self-contained HTML files.

    RESULTS give one table per task (HTML, Markdown, CSV), with published scores beside ours and marked as such. --demo
    writes DIR/report/index.html and summary.json, unless they exist for the same inputs.
    """
    if (demo is None) == (not results):
        raise LilaError(
            "expected folders of lila-train eval to report on, or a demo's folder; pass RESULTS or --demo DIR"
        )
    if results:
        from lila_train.report.comparison import write_comparison

        console.out.print("\n".join(str(path) for path in write_comparison(results, out)))
    if demo is not None:
        from lila_cues import devices
        from lila_train.report.demo import write_demo_report

        page, written = write_demo_report(demo, devices.choose(device))
        console.out.print(f"{page}{'' if written else ' (up to date)'}")
