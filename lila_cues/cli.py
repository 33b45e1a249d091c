"""`lila-cues`: from videos to a store of cues."""

from __future__ import annotations

import typer

from lila_cues.commands import build, inspect, models, plan, store
from stores import console

app = typer.Typer(
    name="lila-cues",
    help="From videos to a store of cues: depth, flow, refined encoder features.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("build")(build.build)
app.command("plan")(plan.plan)
app.command("status")(store.status)
app.command("verify")(store.verify)
app.command("repair")(store.repair)
app.command("inspect")(inspect.inspect)
app.command("merge")(store.merge)
app.command("models")(models.models)


def main() -> None:
    """The console script."""
    console.run(app)
