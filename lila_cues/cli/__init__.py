"""`lila-cues`: from videos to a store of cues.

The commands of `lila-cues`: a module each, or one for a few that look after a store.

What they say stands in the modules whose names end in `_words`. What takes long to import, PyTorch above all, is
imported when a command runs, so that `--help` comes at once.
"""

from __future__ import annotations

import typer

from lila_cues import console
from lila_cues.cli import build, plan, store

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
app.command("inspect")(store.inspect)
app.command("merge")(store.merge)
app.command("models")(plan.models)


def main() -> None:
    """The console script."""
    console.run(app)
