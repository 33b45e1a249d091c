"""`lila-train`: from a store of cues to pixel features, and what they are worth.

The commands of `lila-train`, a module each, which parse what the user gave and say what came of it.

A command imports what computes when it is called, so that the help comes at once.
"""

from __future__ import annotations

import typer

from lila_cues import console
from lila_train.cli import evaluate, inference, train

app = typer.Typer(
    name="lila-train",
    help="From a store of cues to pixel features: train, score, extract, show.",
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


def main() -> None:
    """The console script."""
    console.run(app)
