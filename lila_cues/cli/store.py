"""`lila-cues inspect`: the arrays of a store, statistics of its cues, and a contact sheet.

`lila-cues status`, `verify`, `repair`, `merge`: what is in a store, whether it is whole, and making it so.

The work of `lila-cues verify` and `repair`: many tasks looked at side by side, and what is said of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import stores
from lila_cues import console
from lila_cues.console import out
from stores.errors import StoreError
from stores.repair import repair_documents, repair_task, restore_header, sweep
from stores.store import CueStore
from stores.verify import Finding, Thoroughness, check_documents, check_recomputed, check_task, sample

if TYPE_CHECKING:
    from lila_cues.viz.inspection import Inspection, Table


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
    from lila_cues.cli.messages import status_lines
    from lila_cues.console import out

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

    opened = stores.open(store)
    findings = run_verify(opened, range(opened.n_tasks), quick, jobs)
    if deep:
        findings += recompute(opened, deep, seed, root, device)
    print_findings(opened, findings, report)
    raise typer.Exit(exit_status(findings))


def repair(store: Folder, report: OldReport = None, jobs: Jobs = None) -> None:
    """Verify a store, restore what follows from other parts, and mark damaged clips to be built again."""

    run_repair(store, report, jobs)


def merge(out: Merged, stores: Sources) -> None:
    """Make one store out of several of the same settings that were built apart; nothing is computed again."""
    import stores as package
    from lila_cues import console
    from stores.merge import merge as merge_stores

    sources = [package.open(store) for store in stores]
    with console.progress("clips") as bar:
        line = bar.add_task("merging", total=None)
        merged = merge_stores(out, sources, lambda clips: bar.advance(line, clips))
        bar.update(line, total=merged.n_clips)
    console.out.print(f"{merged.path}: {len(merged.complete_clips())} of {merged.n_clips} clips complete")


Clip = Annotated[str | None, typer.Option(help="Name or number of the clip to show; some at random if not given.")]
Pair = Annotated[
    int | None, typer.Option(min=0, help="Which of its pairs; all of them (of one clip), or one at random.")
]
Count = Annotated[int, typer.Option(min=1, help="How many clips to show at random.")]
Sample = Annotated[int, typer.Option(min=1, help="Over how many clips statistics are taken.")]
ShownSeed = Annotated[int, typer.Option(min=0, help="Draws the clips.")]
SheetFolder = Annotated[Path, typer.Option(help="Folder for sheet.png and index.html.")]


def inspect(
    store: Store,
    clip: Clip = None,
    pair: Pair = None,
    count: Count = 4,
    sample: Sample = 16,
    seed: ShownSeed = 0,
    out: SheetFolder = Path("inspection"),
) -> None:
    """Show what is in a store: arrays, statistics per cue, and pictures of some pairs as PNG and HTML."""
    import numpy as np

    import stores
    from lila_cues import console
    from lila_cues.viz import pictures
    from lila_cues.viz.inspection import inspect as look_into
    from lila_cues.viz.inspection import page, row, sheet
    from stores.verify import sample as draw

    opened = stores.open(store)
    random = np.random.Generator(np.random.Philox(key=seed))
    rows = [row(opened, *place) for place in _places(opened, clip, pair, count, random)]
    found = look_into(opened, draw(opened, sample, seed), rows)
    out.mkdir(parents=True, exist_ok=True)
    pictures.write_png(out / "sheet.png", sheet(rows))
    (out / "index.html").write_text(page(found))
    _print(found)
    console.out.print(f"pictures: {out / 'sheet.png'} and {out / 'index.html'}")


def _places(store: CueStore, clip: str | None, pair: int | None, count: int, random: object) -> list[tuple[int, int]]:
    """(clip, pair) of each row."""
    import numpy as np

    from stores.errors import StoreError

    assert isinstance(random, np.random.Generator)
    pairs = store.spec.geometry.pairs
    if pair is not None and pair >= pairs:
        raise StoreError(f"pair {pair} is not among the {pairs} that a clip of {store.path} has; take 0 to {pairs - 1}")
    complete = store.complete_clips()
    if not len(complete):
        raise StoreError(f"no clip of {store.path} is complete yet; run `lila-cues build` first")
    if clip is not None:
        return [(find_clip(store, clip), each) for each in ([pair] if pair is not None else range(pairs))]
    clips = random.choice(complete, min(count, len(complete)), replace=False)
    return [(int(each), int(random.integers(pairs)) if pair is None else pair) for each in clips]


def find_clip(store: CueStore, clip: str) -> int:
    """The number of a clip that is given by its name or number."""
    from stores.errors import StoreError

    number = store.clips.find(clip)
    if number is None and clip.isdigit() and int(clip) < store.n_clips:
        number = int(clip)
    if number is None:
        raise StoreError(
            f"{store.path} has no clip {clip!r}; give a number from 0 to {store.n_clips - 1} or a name such as "
            f"{store.clip_id(0)!r}"
        )
    return number


def _print(found: Inspection) -> None:
    from lila_cues.console import out

    out.print(f"{found.path}\n{found.summary}", markup=False)
    for table in (found.arrays, found.numbers):
        out.print()
        for line in columns(table):
            out.print(line, markup=False)


def columns(table: Table) -> Iterator[str]:
    """A table as lines of text, in columns as wide as their widest entry: no terminal cuts them."""
    heads, lines = table
    widths = [max(len(line[place]) for line in (heads, *lines)) for place in range(len(heads))]
    for line in (heads, *lines):
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        yield "  ".join(cells).rstrip()


_SHOWN = 20
NOTE = "note"


def run_verify(store: CueStore, tasks: Sequence[int], quick: bool, jobs: int | None) -> list[Finding]:
    """Findings of the documents and of some tasks, with a bar."""
    if store.ledger.names() is None:
        raise StoreError(f"{store.path} cannot be listed, so its ledger cannot be checked; verify a copy in a folder")
    look_at = Thoroughness.INDICES if quick else Thoroughness.VALUES
    findings = list(check_documents(store))
    with console.progress("tasks") as bar, ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        line = bar.add_task("verifying", total=len(tasks))
        for found in pool.map(lambda task: list(check_task(store, task, look_at)), tasks):
            findings += found
            bar.advance(line)
    return findings


def recompute(store: CueStore, count: int, seed: int, root: Path | None, device: str | None) -> list[Finding]:
    """Findings of a sample of clips that are computed again."""
    from lila_cues.pipeline.recompute import Recomputer

    again, findings = Recomputer(store, root, device), list[Finding]()
    with console.progress("clips") as bar:
        for clip in bar.track(sample(store, count, seed), description="computing again"):
            findings += check_recomputed(store, clip, again)
    return findings


def print_findings(store: CueStore, findings: Sequence[Finding], report: Path | None) -> None:
    """Say what was found, and write all of it to `report`."""
    if report is not None:
        document = {"store": store.path, "findings": [finding.to_dict() for finding in findings]}
        report.write_text(json.dumps(document, indent=1))
    for finding in findings[:_SHOWN]:
        out.print(str(finding), markup=False)
    if len(findings) > _SHOWN:
        out.print(f"… and {len(findings) - _SHOWN} more (--report FILE keeps them all)")
    complete = len(store.complete_clips())
    if exit_status(findings):
        clips = len({clip for finding in findings for clip in finding.clips})
        out.print(f"{store.path} is damaged: {clips} of {complete} complete clips have to be built again; ", end="")
        out.print("run `lila-cues repair` on it, then build")
    else:
        out.print(f"{store.path} is whole: {complete} of {store.n_clips} clips complete and checked")


def exit_status(findings: Iterable[Finding]) -> int:
    """1 if anything but notes was found."""
    return int(any(finding.kind != NOTE for finding in findings))


def run_repair(path: Path, report: Path | None, jobs: int | None) -> None:
    """Restore what can be restored, mark the rest to be built again, and say both."""
    if restore_header(path):
        out.print("restored zarr.json from its copy")
    store = stores.open(path)
    findings = run_verify(store, range(store.n_tasks), False, jobs) if report is None else read_report(report)
    for key in repair_documents(store):
        out.print(f"wrote {key} anew")
    suspects = frozenset(clip for finding in findings for clip in finding.clips if finding.kind == "value")
    damaged = _damaged_tasks(store, findings)
    marked = [clip for task in damaged for clip in repair_task(store, task, suspects)]
    swept = sweep(store)
    store.publish_statuses()
    if swept:
        out.print(f"removed what dead builders left of {swept} task{'s' * (swept != 1)}")
    again = (
        f"{len(marked)} clips are to be built again: run the same `lila-cues build`" if marked else "no clip is lost"
    )
    out.print(f"{store.path} is repaired; {again}")


def read_report(path: Path) -> list[Finding]:
    """What `verify --report` wrote."""
    try:
        entries = json.loads(path.read_text())["findings"]
        return [Finding(**{**entry, "clips": tuple(entry["clips"])}) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is no report of `lila-cues verify --report`; name one, or leave --report out"
        ) from error


def _damaged_tasks(store: CueStore, findings: Iterable[Finding]) -> list[int]:
    """Tasks with damaged clips, or with a ledger record that cannot be believed."""
    tasks = {clip // store.spec.shard_clips for finding in findings for clip in finding.clips}
    return sorted(tasks | {finding.task for finding in findings if finding.task is not None})
