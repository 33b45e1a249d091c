"""`lila-train eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lila_train.commands.options import Device
from stores import console

if TYPE_CHECKING:
    from lila_train.evaluation import Task

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
EncoderWeights = Annotated[Path | None, typer.Option(help="The encoder's weight file.")]
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
    encoder_weights: EncoderWeights = None,
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
    from lila_train.devices import choose
    from lila_train.evaluation import ModelSpec, Options, default_workers, open_task
    from lila_train.evaluation import evaluate as run

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

    from lila_train.report.wording import shown

    console.out.print(f"sizes: {_listed(result['derived'])}")
    names = list(next(iter(result["scores"].values())))
    table = Table("", *names, title=f"{result['protocol']} ({_listed(result['counts'])})", title_justify="left")
    for head, figures in result["scores"].items():
        table.add_row(head, *(shown(name, figures[name]) for name in names))
    console.out.print(table)
    console.out.print(f"{out / 'result.json'} ({sum(result['seconds'].values()):.1f} s)")


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'–' if value is None else value}" for name, value in values.items())
