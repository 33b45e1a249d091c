"""The command `lila-train`. Commands import what computes when they are called, so that the help appears at once."""

from __future__ import annotations

import typer

from lila_cues import console
from lila_train.cli import evaluate, inference, train

app = typer.Typer(
    name="lila-train",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("run")(train.run)
app.command("recipes")(train.recipes)
app.command("features")(inference.features)
app.command("explore")(inference.explore)
app.command("track")(inference.track)
app.command("export")(inference.export)
app.command("ablate")(evaluate.ablate)
app.command("eval")(evaluate.evaluate)
app.command("report")(evaluate.report)
app.callback(help="Train pixel features on a cue store, evaluate, extract and show them.")(console.common_options)


def main() -> None:
    """Run the console script."""
    console.run(app)
