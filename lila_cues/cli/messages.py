"""Messages of `lila-cues build` before, during and after a build; other builders of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from lila_cues import console
from stores.ledger import COMPLETE, FAILED
from stores.plan import readable
from stores.store import CueStore

if TYPE_CHECKING:
    from rich.progress import Progress

    from lila_cues.config import BuildConfig, RunOptions
    from lila_cues.pipeline.build import Tally
    from lila_cues.pipeline.setup import NetworkFacts

SHOWN_FAILURES = 5
CHECKED_TASKS = 1000  # pending tasks whose lock file `active_workers` reads at most


def note(text: str) -> None:
    """Print a note to the error stream."""
    console.err.print(console.bold("note:", "yellow"), console.printable(text))


def enlarged(side: int, base_size: int, saved_bytes: int) -> str:
    """Return a note that frames are enlarged, with the bytes that their own size would save."""
    return f"frames of {side} px are enlarged to {base_size}: --base-size {side} saves {readable(saved_bytes)}"


def announcement(
    config: BuildConfig, options: RunOptions, facts: NetworkFacts, store: CueStore, pending: int
) -> RenderableType:
    """Return a table of what will be built."""
    geometry, done = store.spec.geometry, store.n_clips - pending
    table = console.facts(f"Building {store.path}")
    table.add_row("clips", f"{pending} of {config.dataset} in {options.root}" + f" ({done} done)" * bool(done))
    table.add_row("per clip", f"{geometry.frames} frames, {geometry.pairs} pairs, 1 to {config.max_gap} frames apart")
    sizes = {"RGB": geometry.base, "depth and flow": geometry.cue, "features": geometry.features}
    shapes = ", ".join(f"{name} {y}×{x}" for name, (y, x) in sizes.items())
    table.add_row("sizes", f"{shapes}, {geometry.channels} channels")
    for kind, record in facts.records.items():
        weights = " ".join(str(record[key]) for key in ("origin", "location", "revision") if record[key])
        table.add_row(kind, f"{record['network']} ({weights}), license: {record['licence']}")
    table.add_row("profile", f"{config.profile} on {facts.provenance['device']}, seed {config.seed}")
    return table


class ClipProgress:
    """Progress bar of a build; prints the first failed clips with their reasons as they occur."""

    def __init__(self, bar: Progress, clips: int, tally: Tally) -> None:
        self.bar, self.line, self.failed, self.tally = bar, bar.add_task("building", total=clips), 0, tally

    def on_clip_done(self, clip_id: str, reason: str | None) -> None:
        self.failed += reason is not None
        failed = f", {self.failed} failed" * bool(self.failed)
        self.bar.update(self.line, advance=1, description=f"building{failed}{speed(self.tally)}")
        if reason is not None and self.failed <= SHOWN_FAILURES:
            self.bar.console.print(console.bold("failed", "red"), console.printable(f"{clip_id}: {reason}"))


def speed(tally: Tally) -> str:
    """Return `, N TFLOP/s`: the arithmetic of the networks by the time that they took; empty before the first task."""
    return f", {tally.flops / max(tally.network_seconds, 1e-9) / 1e12:.3g} TFLOP/s" * bool(tally.flops)


def summary(store: CueStore, tally: Tally, wall: float) -> RenderableType:
    """Return a table of what a run has built in `wall` seconds."""
    geometry, done = store.spec.geometry, tally.complete
    table = console.facts(f"Built {store.path}")
    table.add_row("clips", f"{done} complete, {tally.failed} failed" + f", {tally.absent} absent" * bool(tally.absent))
    table.add_row("frames", f"{done * geometry.frames:,} and {done * geometry.pairs:,} pairs")
    table.add_row("bytes", f"{tally.bytes:,} ({tally.bytes / max(1, tally.reported) / 1e6:.1f} MB per clip)")
    table.add_row("time", f"{wall:.1f} s, {done / max(wall, 1e-9):.2f} clips/s")
    table.add_row("seconds", ", ".join(f"{part} {seconds:.1f}" for part, seconds in tally.seconds.most_common()))
    networks = f"networks {tally.network_seconds:.1f} of {wall:.1f} s{speed(tally)}"
    table.add_row("", f"{networks}; other parts run beside them, in threads")
    shown = tally.failures[:SHOWN_FAILURES]
    for clip_id, reason in shown:
        table.add_row(Text("failed", "red"), f"{clip_id}: {reason}")
    if tally.failed > len(shown):
        table.add_row("", f"… and {tally.failed - len(shown)} more: lila-cues status {store.path}")
    if tally.failed:
        table.add_row("", "once their files are right, the same command with --only-failed builds them")
    return table


def checked(found: Iterable[tuple[str, str | None]], facts: NetworkFacts) -> RenderableType:
    """Return a table of the processes that would build: whether each is fit, and why not."""
    table, provenance = console.facts("Checked, nothing built"), facts.provenance
    fit = f"fit: {provenance['device']}, {provenance['decoder']}, networks load, data and store are there"
    for worker, reason in found:
        table.add_row(worker, Text(f"left out: {reason}", "red") if reason else fit)
    return table


def finished(store: CueStore, shard: tuple[int, int]) -> str:
    """Return a message that nothing is left to build in this builder's share."""
    statuses = store.statuses()
    share = "" if shard[1] == 1 else f"share {shard[0]}/{shard[1]} of "
    complete, failed = int((statuses == COMPLETE).sum()), int((statuses == FAILED).sum())
    retry = f", {failed} failed (--only-failed retries them)" if failed else ""
    return f"{share}{store.path} is finished: {console.counted({'clips': complete})} complete{retry}"


def active_workers(store: CueStore, only_failed: bool = False) -> Counter[str]:
    """Return `host:pid` of every builder that holds a pending task, with the number of its tasks."""
    pending = islice(store.pending_tasks(only_failed), CHECKED_TASKS)
    return Counter(worker for task in pending if (worker := store.locked_by(task)))


def other_builders(store: CueStore, only_failed: bool = False) -> Iterator[str]:
    """Yield a note about each other builder of the store."""
    for worker, tasks in active_workers(store, only_failed).items():
        yield (
            f"{worker} is building {console.counted({'tasks': tasks})} of this store; they are left to it, and the "
            "others are shared with it; afterwards run the same command again, or see lila-cues status"
        )
