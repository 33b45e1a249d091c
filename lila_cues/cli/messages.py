"""What `lila-cues build` says: before it starts, and at its end.

Who else is building in a store at this moment.

What `lila-cues status` and `plan` say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from lila_cues import console
from stores.ledger import COMPLETE, FAILED
from stores.plan import Plan, readable
from stores.store import CueStore

if TYPE_CHECKING:
    from rich.progress import Progress

    from lila_cues.config import BuildRecipe
    from lila_cues.pipeline.build import Tally
    from lila_cues.pipeline.setup import Choice, Networks
    from lila_cues.pipeline.task import TaskReport


NETWORK_PARTS = ("encoder", "depth", "flow")
SHOWN_FAILURES = 5


def finished(store: CueStore, shard: tuple[int, int]) -> str:
    """Nothing is left to do for this builder, and what there is."""
    statuses = store.statuses()
    share = "" if shard[1] == 1 else f"share {shard[0]}/{shard[1]} of "
    complete, failed = int((statuses == COMPLETE).sum()), int((statuses == FAILED).sum())
    again = f", {failed} failed (--only-failed tries them again)" if failed else ""
    return f"{share}{escape(store.path)} is finished: {complete} {_clips(complete)} complete{again}"


def announcement(choice: Choice, recipe: BuildRecipe, networks: Networks, store: CueStore, left: int) -> RenderableType:
    """What will be done."""
    geometry, done = recipe.geometry, store.n_clips - left
    table = _table(f"Building {store.path}")
    table.add_row("clips", f"{left} of {recipe.source.name} in {recipe.source.root}" + f" ({done} done)" * bool(done))
    table.add_row("per clip", f"{geometry.frames} frames, {geometry.pairs} pairs, 1 to {recipe.max_gap} frames apart")
    sizes = {"RGB": geometry.base, "depth and flow": geometry.cue, "features": geometry.features}
    shapes = ", ".join(f"{name} {y}×{x}" for name, (y, x) in sizes.items())
    table.add_row("sizes", f"{shapes}, {geometry.channels} channels")
    for kind, record in networks.records().items():
        weights = " ".join(str(record[key]) for key in ("origin", "location", "revision") if record[key])
        table.add_row(kind, f"{record['network']} ({weights}), licence: {record['licence']}")
    table.add_row("profile", f"{choice.profile.name} on {recipe.device}, seed {recipe.seed}")
    return table


def notices(notes: Iterable[str]) -> None:
    """What a person should know before, where they see it."""
    for note in notes:
        console.err.print(f"[bold yellow]note:[/] {escape(note)}")


class Watch:
    """The bar of a running build: clips done, and the failed ones as they come, the first of them with their reason."""

    def __init__(self, bar: Progress, clips: int) -> None:
        self.bar, self.line, self.failed = bar, bar.add_task("building", total=clips), 0

    def clip(self, clip_id: str, reason: str | None) -> None:
        """A clip is done; `reason` if it failed."""
        self.bar.advance(self.line)
        if reason is None:
            return
        self.failed += 1
        self.bar.update(self.line, description=f"building, {self.failed} failed")
        if self.failed <= SHOWN_FAILURES:
            self.bar.console.print(f"[red]failed[/] {escape(clip_id)}: {escape(reason)}")

    def report(self, report: TaskReport) -> None:
        """A task is done, elsewhere."""
        self.bar.advance(self.line, report.complete)
        for clip_id, reason in report.failed.items():
            self.clip(clip_id, reason)


def build_summary(store: CueStore, tally: Tally, wall: float) -> RenderableType:
    """What came of this run."""
    geometry, done = store.spec.geometry, tally.complete
    table = _table(f"Built {store.path}")
    table.add_row("clips", f"{done} complete, {tally.failed} failed")
    table.add_row("frames", f"{done * geometry.frames:,} and {done * geometry.pairs:,} pairs")
    table.add_row("bytes", f"{tally.bytes:,} ({tally.bytes / max(1, done) / 1e6:.1f} MB per clip)")
    table.add_row("time", f"{wall:.1f} s, {done / max(wall, 1e-9):.2f} clips/s")
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in tally.seconds.most_common())
    table.add_row("seconds", parts)
    networks = sum(tally.seconds[part] for part in NETWORK_PARTS)
    table.add_row("", f"networks {networks:.1f} of {wall:.1f} s; other parts run beside them, in threads")
    for name, reason in tally.shown(SHOWN_FAILURES):
        table.add_row("[red]failed[/]", f"{escape(name)}: {escape(reason)}")
    if tally.failed > SHOWN_FAILURES:
        table.add_row("", f"… and {tally.failed - SHOWN_FAILURES} more: lila-cues status {escape(store.path)}")
    return table


def _table(title: str) -> Table:
    table = Table(title=escape(title), title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _clips(count: int) -> str:
    return "clip" if count == 1 else "clips"


LOOKED_AT = 1000
"""Pending tasks that are looked at: each costs a look at a claim file."""


def active_workers(store: CueStore, only_failed: bool = False) -> Counter[str]:
    """`host:pid` of every builder that holds a pending task, and how many it holds."""
    pending = islice(store.pending_tasks(only_failed), LOOKED_AT)
    return Counter(holder for task in pending if (holder := store.locked_by(task)))


def notes(store: CueStore, only_failed: bool = False) -> Iterator[str]:
    """What a second builder says before it begins, and at its end of what it left to the first."""
    for holder, tasks in active_workers(store, only_failed).items():
        yield (
            f"{holder} is building {tasks} task{'s' * (tasks != 1)} of this store; they are left to it, and the others "
            "are shared with it: run the same command again to be sure of all, or see lila-cues status"
        )


_CLIPS_AT_WORK = 18  # decoded ahead of the networks or compressed behind them, on many cores; fewer on few


def plan_lines(wanted: Plan, rate: float, free: int) -> Iterator[str]:
    """The plan as lines of text."""
    yield f"clips        {wanted.clips:,}"
    yield f"frames       {wanted.frames:,}, {wanted.pairs:,} pairs"
    yield f"bytes        about {readable(wanted.total_bytes)}, {readable(wanted.largest_bytes)} if nothing compresses"
    for name, size in sorted(wanted.array_bytes.items(), key=lambda item: -item[1]):
        if size * 100 >= wanted.total_bytes:
            yield f"             {readable(size):>9}  {name}"
    yield f"files        {wanted.files:,} in {wanted.tasks:,} tasks"
    at_work = readable(wanted.clip_memory_bytes)
    yield f"memory       about {at_work} for each clip at work, {_CLIPS_AT_WORK} of them at most, beside the networks"
    yield f"free disk    {readable(free)}"
    hours = f"{wanted.gpu_hours:.3g}" if wanted.gpu_hours >= 0.001 else "under 0.001"
    yield f"GPU hours    {hours} at {rate:g} frames/s on one device (--rate)"
