"""`lila-cues`: from videos to a cue store.

What takes long to import, PyTorch above all, is imported when a command runs, so that `--help` answers quickly.
"""

from __future__ import annotations

import typer

from lila_cues import console
from lila_cues.cli import build, plan, store

app = typer.Typer(name="lila-cues", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")
for command in (
    build.build, plan.plan, store.status, store.verify, store.repair, store.inspect, store.merge,
    plan.models, plan.profiles,
):  # fmt: skip
    app.command()(command)
app.callback(help="From videos to a cue store: depth, flow, refined encoder features.")(console.common_options)


def main() -> None:
    """Run the console script."""
    console.run(app)
