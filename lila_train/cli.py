"""`lila-train`: from a store of cues to pixel features, and what they are worth."""

from __future__ import annotations

import typer

from lila_train.commands import ablate, evaluate, explore, export, features, recipes, report, run, track
from stores import console

app = typer.Typer(
    name="lila-train",
    help="From a store of cues to pixel features: train, score, extract, show.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("run")(run.run)
app.command("recipes")(recipes.recipes)
app.command("features")(features.features)
app.command("explore")(explore.explore)
app.command("track")(track.track)
app.command("export")(export.export)
app.command("ablate")(ablate.ablate)
app.command("eval")(evaluate.evaluate)
app.command("report")(report.report)


def main() -> None:
    """The console script."""
    console.run(app)
