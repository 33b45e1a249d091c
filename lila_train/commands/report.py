"""`lila-train report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lila_train.commands.options import Device
from stores import console
from stores.errors import LilaError


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
        from lila_train.report import write_comparison

        console.out.print("\n".join(str(path) for path in write_comparison(results, out)))
    if demo is not None:
        from lila_train.devices import choose
        from lila_train.report import write_demo_report

        made = write_demo_report(demo, choose(device))
        console.out.print(f"{made.page}{'' if made.fresh else ' (up to date)'}")
