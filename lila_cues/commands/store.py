"""`lila-cues status`, `verify`, `repair`, `merge`: what is in a store, whether it is whole, and making it so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[str, typer.Argument(metavar="STORE", help="A store's folder, or its s3://, gs:// or https:// URL.")]
Folder = Annotated[Path, typer.Argument(metavar="STORE", help="A store's folder.")]
Failures = Annotated[int, typer.Option(min=0, help="How many kinds of failures to list.")]
Quick = Annotated[bool, typer.Option("--quick", help="Only documents, ledger and the indices of shards.")]
Deep = Annotated[
    int, typer.Option(min=0, help="Compute this many clips again with the recorded networks, and compare.")
]
DeepSeed = Annotated[int, typer.Option(min=0, help="Draws the clips of --deep.")]
MovedRoot = Annotated[Path | None, typer.Option(help="Where the videos lie now, if they have moved; for --deep.")]
DeepDevice = Annotated[str | None, typer.Option(help="cpu, cuda …; as recorded if not given; for --deep.")]
Report = Annotated[Path | None, typer.Option(help="Write all findings to this JSON file, for `repair --report`.")]
OldReport = Annotated[Path | None, typer.Option("--report", help="What `verify --report` wrote: look only there.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Threads; the number of cores if not given.")]
Merged = Annotated[Path, typer.Argument(metavar="OUT", help="Where the merged store goes.")]
Sources = Annotated[list[str], typer.Argument(metavar="STORE…", help="Two stores or more of the same settings.")]


def status(store: Store, failures: Failures = 5) -> None:
    """What is in a store: clips by status, tasks at work, failures by reason."""
    import stores
    from lila_cues.commands.store_words import status_lines
    from stores.console import out

    for line in status_lines(stores.open(store), failures):
        out.print(line)


def verify(
    store: Store,
    quick: Quick = False,
    deep: Deep = 0,
    seed: DeepSeed = 0,
    root: MovedRoot = None,
    device: DeepDevice = None,
    report: Report = None,
    jobs: Jobs = None,
) -> None:
    """Check a store: documents, ledger against files, checksums, values. Exit status 1 if anything is wrong."""
    import stores
    from lila_cues.commands import store_checks as checks

    opened = stores.open(store)
    findings = checks.look(opened, range(opened.n_tasks), quick, jobs)
    if deep:
        findings += checks.recompute(opened, deep, seed, root, device)
    checks.tell(opened, findings, report)
    raise typer.Exit(checks.exit_status(findings))


def repair(store: Folder, report: OldReport = None, jobs: Jobs = None) -> None:
    """Verify a store, restore what follows from other parts, and mark damaged clips to be built again."""
    from lila_cues.commands import store_checks as checks

    checks.repair(store, report, jobs)


def merge(out: Merged, stores: Sources) -> None:
    """Make one store out of several of the same settings that were built apart; nothing is computed again."""
    import stores as package
    from stores import console
    from stores.merge import merge as merge_stores

    sources = [package.open(store) for store in stores]
    with console.progress("clips") as bar:
        line = bar.add_task("merging", total=None)
        merged = merge_stores(out, sources, lambda clips: bar.advance(line, clips))
        bar.update(line, total=merged.n_clips)
    console.out.print(f"{merged.path}: {len(merged.complete_clips())} of {merged.n_clips} clips complete")
