"""`lila-cues status`, `verify`, `repair`, `merge` and `inspect`: commands on an existing store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated

import numpy as np
import typer

import stores
from lila_cues import console
from lila_cues.cli.build import list_clips
from lila_cues.cli.messages import active_workers
from lila_cues.config import recorded_build, spread
from lila_cues.devices import usable_cores
from lila_cues.prefetch import map_ordered
from stores.atomic import atomic_write
from stores.errors import StoreError
from stores.ledger import ABSENT, FAILED, STATUS_NAMES
from stores.locks import NoLocksError
from stores.merge import merge as merge_stores
from stores.plan import readable
from stores.repair import open_damaged
from stores.repair import repair as repair_store
from stores.store import CueStore
from stores.verify import Finding, Thoroughness, check_documents, check_recomputed, check_task, sample, tasks_of

SHOWN_FINDINGS = 20
READ_RECORDS = 500  # records that `status` reads at most; counts of clips are in the names of all
MERGING_THREADS = 8  # more would wait for the disk

Store = Annotated[str, typer.Argument(metavar="STORE", help="Store directory, or its s3://, gs:// or https:// URL.")]
LocalStore = Annotated[Path, typer.Argument(metavar="STORE", help="Store directory.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Number of threads. Default: the number of cores.")]


def status(store: Store, failures: Annotated[int, typer.Option(min=0, help="Number of reasons to list.")] = 5) -> None:
    """Show clips by status, active builders, and failures by reason."""
    from lila_cues.viz.inspection import stored_bytes, summary

    opened, out = stores.open(store), console.out
    out.print(console.bold(opened.path))
    n_tasks, per_task = console.counted({"tasks": opened.n_tasks}), console.counted({"clips": opened.spec.shard_clips})
    out.print(f"  {summary(opened)}, {n_tasks} of {per_task}")
    recorded = opened.ledger.keys() or {}
    if recorded:  # bytes per clip, estimated from some records
        sizes = stored_bytes(opened, spread(sorted(recorded), READ_RECORDS))
        per_clip, complete = sum(sizes.values()), len(opened.complete_clips())
        out.print(f"  {readable(round(per_clip * complete))}, {readable(round(per_clip))} per clip")
    with suppress(NoLocksError):
        for worker, tasks in active_workers(opened).items():
            out.print(f"  active: {worker} on {console.counted({'tasks': tasks})}")
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}  # the first clip of each reason
    failing = [task for task, key in recorded.items() if str(FAILED) in key["statuses"]]
    for task in spread(failing, READ_RECORDS):
        record = opened.ledger.latest(task, recorded)
        for clip, each in zip(opened.task_clips(task), record.clips if record else (), strict=False):
            if each.status == FAILED:
                name = opened.clip_id(clip)
                reason = (each.reason or STATUS_NAMES[FAILED]).replace(name, "…")
                reasons[reason] += 1
                examples.setdefault(reason, name)
    for reason, clips in reasons.most_common(failures):
        out.print(console.bold("  failed", "red"), f"{clips:,} × {reason} (first: {examples[reason]})")
    if len(failing) > READ_RECORDS:
        out.print(f"  … these are the reasons in {READ_RECORDS} of {len(failing):,} tasks with failed clips")
    if len(reasons) > failures:
        out.print(f"  … and {len(reasons) - failures} other reasons (--failures N shows more)")
    statuses = opened.statuses()
    if (statuses == ABSENT).any():
        out.print("  next: run the same `lila-cues build` again to build the absent clips")
    elif (statuses == FAILED).any():
        out.print("  next: `lila-cues build … --only-failed` retries the failed clips")


def verify(
    store: Store,
    quick: Annotated[bool, typer.Option("--quick", help="Check only documents, ledger and shard indices.")] = False,
    deep: Annotated[int, typer.Option(min=0, help="Number of clips to recompute with the recorded networks.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed that selects the clips of --deep.")] = 0,
    root: Annotated[Path | None, typer.Option(help="Dataset directory for --deep. Default: the recorded one.")] = None,
    device: Annotated[str | None, typer.Option(help="Device for --deep. Default: the recorded one.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write all findings to this JSON file for `repair`.")] = None,
    jobs: Jobs = None,
) -> None:
    """Check a store: documents, ledger against files, checksums, values. Exit status 1 if it is damaged."""
    opened = stores.open(store)
    if report is not None and report.exists():
        _read_report(report)  # nothing else is replaced
    findings = _check(opened, range(opened.n_tasks), quick, jobs)
    if deep:
        from lila_cues.pipeline.task import load_recompute

        recompute = load_recompute(opened, root, device)
        with console.progress("clips") as bar:
            for clip in bar.track(sample(opened, deep, seed), description="recomputing"):
                findings += check_recomputed(opened, clip, recompute(clip))
    if report is not None:
        document = {"store": opened.path, "findings": [vars(finding) for finding in findings]}
        atomic_write(json.dumps(document, indent=1), report)
    _show(findings, " (--report FILE keeps them all)")
    complete, damaged = len(opened.complete_clips()), _is_damage(findings)
    if damaged:
        clips = len({clip for finding in findings for clip in finding.clips})
        console.out.print(
            f"{opened.path} is damaged: {clips} of {complete} complete clips have to be built again; "
            "run `lila-cues repair` on it, then build"
        )
    else:
        console.out.print(f"{opened.path} is intact: {complete} of {opened.n_clips} clips complete and checked")
    raise typer.Exit(int(damaged))


def _read_report(path: Path) -> list[Finding]:
    try:
        entries = json.loads(path.read_text("utf-8-sig"))["findings"]
        return [Finding(**{**entry, "clips": tuple(entry["clips"])}) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is no report of `lila-cues verify --report`; name another file, or leave --report out"
        ) from error


def _show(findings: Sequence[Finding], remedy: str = "") -> None:
    for finding in findings[:SHOWN_FINDINGS]:
        console.out.print(str(finding))
    if len(findings) > SHOWN_FINDINGS:
        console.out.print(f"… and {len(findings) - SHOWN_FINDINGS} more{remedy}")


def _is_damage(findings: Iterable[Finding]) -> bool:
    return any(finding.kind != "note" for finding in findings)


def _check(store: CueStore, tasks: Sequence[int], quick: bool, jobs: int | None) -> list[Finding]:
    """Return the findings of the documents and of the tasks, with a progress bar."""
    listed = store.ledger.keys()
    if listed is None:
        raise StoreError(f"{store.path} cannot be listed, so its ledger cannot be checked; verify a copy in a folder")
    thoroughness = Thoroughness.INDICES if quick else Thoroughness.VALUES
    findings = list(check_documents(store))
    threads = jobs or usable_cores()

    def check(task: int) -> list[Finding]:
        return list(check_task(store, task, thoroughness, listed))

    with console.progress("tasks") as bar:
        line = bar.add_task("verifying", total=len(tasks))
        for found in map_ordered(check, tasks, 2 * threads, threads):
            findings += found
            bar.advance(line)
    return findings


def repair(
    store: LocalStore,
    report: Annotated[Path | None, typer.Option(help="File of `verify --report`. Default: verify now.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Dataset directory, for lost clip names. Default: recorded.")
    ] = None,
    jobs: Jobs = None,
) -> None:
    """Verify a store, restore what follows from its other parts, mark damaged clips to be built again, verify again.

    Exit status 1 if the store is damaged still.
    """
    opened = open_damaged(store)
    tasks: Sequence[int] = range(opened.n_tasks)
    if report is None:
        findings = _check(opened, tasks, False, jobs)
        tasks = tasks_of(findings, opened)  # the others are intact
    else:
        findings = _read_report(report)
    repairs = list(repair_store(opened, findings, partial(_recorded_clips, opened, root)))
    _show(repairs)
    remaining = _check(opened, tasks, False, jobs)
    if damaged := _is_damage(remaining):
        _show(remaining)
        console.out.print(f"{opened.path} is still damaged; see the lines above for what to do")
    else:
        lost = len({clip for each in repairs for clip in each.clips})
        again = f"{console.counted({'clips': lost})} to be built again: run the same `lila-cues build`"
        console.out.print(f"{opened.path} is repaired; {again if lost else 'no clip is lost'}")
    raise typer.Exit(int(damaged))


def _recorded_clips(store: CueStore, root: Path | None) -> Sequence[str]:
    return list_clips(*recorded_build(store, root))


def merge(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of the merged store.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="STORE…", help="Stores of the same settings; one is converted.")
    ],
    jobs: Jobs = None,
) -> None:
    """Merge stores of the same settings that were built separately; nothing is recomputed.

    Run the same command again to continue. A damaged clip is taken from another of the stores, or left absent. Clips of
    the same name and other contents are refused.
    """
    damaged, threads = list[str](), jobs or min(MERGING_THREADS, usable_cores())
    with console.progress("clips") as bar:
        line = bar.add_task("merging", total=None)
        opened = [stores.open(each) for each in sources]
        run = partial(map_ordered, ahead=2 * threads, threads=threads)
        merged = merge_stores(target, opened, lambda clips: bar.advance(line, clips), damaged.append, run)
        bar.update(line, total=merged.n_clips)
    for note in damaged[:SHOWN_FINDINGS]:
        console.err.print(f"note: {note}")
    console.out.print(f"{merged.path}: {len(merged.complete_clips())} of {merged.n_clips} clips complete")
    if damaged:
        console.out.print(f"{len(damaged)} damaged copies were left out; `lila-cues build` computes absent clips again")


def inspect(
    store: Store,
    clip: Annotated[str | None, typer.Option(help="Name or number of the clip to show. Default: random clips.")] = None,
    pair: Annotated[int | None, typer.Option(min=0, help="Pair to show. Default: all of --clip, else random.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of random clips to show.")] = 4,
    sample_size: Annotated[int, typer.Option("--sample", min=1, help="Number of clips in the statistics.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed that selects the clips.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for sheet.png and index.html. Default: NAME-inspection beside a store NAME.zarr, or in the "
            "working directory for a URL."
        ),
    ] = None,
) -> None:
    """Show the arrays of a store, statistics per cue, and pictures of some pairs as PNG and HTML."""
    from lila_cues.viz import html, inspection
    from lila_cues.viz.charts import picture_sheet

    opened = stores.open(store)
    if out is None:
        url, place = "://" in store, PurePath(opened.path)
        out = Path(f"{place.stem}-inspection") if url else Path(place).absolute().with_name(f"{place.stem}-inspection")
    rows = [inspection.pair_row(opened, *place) for place in _shown_pairs(opened, clip, pair, count, seed)]
    arrays, numbers = inspection.tables(opened, sample(opened, sample_size, seed))
    shown = {"title": opened.path, "summary": inspection.summary(opened)}
    html.render("inspection.html", out / "index.html", **shown, rows=rows, arrays=arrays, numbers=numbers)
    atomic_write(picture_sheet(rows), out / "sheet.png")
    console.out.print("\n".join(shown.values()))
    for head, lines in (arrays, numbers):
        widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
        console.out.print()
        for line in (head, *lines):  # plain lines, since a rich table would be cut at the terminal's width
            cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
            console.out.print("  ".join(cells).rstrip())
    console.out.print(f"pictures: {out / 'sheet.png'} and {out / 'index.html'}")


def _shown_pairs(store: CueStore, clip: str | None, pair: int | None, count: int, seed: int) -> list[tuple[int, int]]:
    """Return (clip, pair) of each row; `clip` is a name or a number."""
    random = np.random.Generator(np.random.Philox(key=seed))
    pairs = store.spec.geometry.pairs
    if pair is not None and pair >= pairs:
        raise StoreError(f"pair {pair} is not among the {pairs} that a clip of {store.path} has; take 0 to {pairs - 1}")
    complete = store.complete_clips()
    if not len(complete):
        raise StoreError(f"no clip of {store.path} is complete yet; run `lila-cues build` first")
    if clip is not None:
        number = store.clips.find(clip)
        if number is None and clip.isdigit() and int(clip) < store.n_clips:
            number = int(clip)
        if number is None:
            raise StoreError(
                f"{store.path} has no clip {clip!r}; give a number from 0 to {store.n_clips - 1} or a name such as "
                f"{store.clip_id(0)!r}"
            )
        return [(number, each) for each in ([pair] if pair is not None else range(pairs))]
    clips = random.choice(complete, min(count, len(complete)), replace=False)
    return [(int(each), int(random.integers(pairs)) if pair is None else pair) for each in clips]
