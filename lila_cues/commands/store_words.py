"""What `lila-cues status` and `plan` say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.markup import escape

from lila_cues.commands.holders import holders
from stores.files import LocalFiles
from stores.inspection import summary
from stores.ledger import FAILED, STATUS_NAMES
from stores.plan import Plan, readable
from stores.statistics import stored_bytes
from stores.store import CueStore

_CLIPS_AT_WORK = 18  # decoded ahead of the networks or compressed behind them, on many cores; fewer on few
_READ_RECORDS = 500  # at most, to tell the bytes per clip


def status_lines(store: CueStore, failures: int) -> Iterator[str]:
    """Clips, bytes, who is at work, what failed and why, and what to do next."""
    statuses = store.statuses()
    yield f"[bold]{escape(store.path)}[/]"
    yield f"  {summary(store)}, {store.n_tasks:,} tasks of {store.spec.shard_clips} clips"
    names = store.ledger.names()
    if names:
        sizes = stored_bytes(store, sorted(names)[:: max(1, len(names) // _READ_RECORDS)])
        per_clip, complete = sum(sizes.values()), len(store.complete_clips())
        yield f"  {readable(round(per_clip * complete))}, {readable(round(per_clip))} per clip"
    yield from _at_work(store)
    yield from _failures(store, failures)
    if (statuses == 0).any():
        yield "  next: the same `lila-cues build` goes on with the absent clips"
    elif (statuses == FAILED).any():
        yield "  next: `lila-cues build … --only-failed` tries the failed clips again"


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


def _at_work(store: CueStore) -> Iterator[str]:
    if not isinstance(store.files, LocalFiles):
        return
    for holder, tasks in holders(store).items():
        yield f"  at work: {escape(holder)} on {tasks} task{'s' * (tasks != 1)}"


def _failures(store: CueStore, count: int) -> Iterator[str]:
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for task in store.pending_tasks(only_failed=True):
        record = store.ledger.latest(task)
        for clip, each in zip(store.task_clips(task), record.clips if record else (), strict=False):
            if each.status == FAILED:
                name = store.clip_id(clip)
                reason = (each.reason or STATUS_NAMES[FAILED]).replace(name, "…")
                reasons[reason] += 1
                examples.setdefault(reason, name)
    for reason, clips in reasons.most_common(count):
        yield f"  [red]failed[/] {clips:,} × {escape(reason)} (first: {escape(examples[reason])})"
    if len(reasons) > count:
        yield f"  … and {len(reasons) - count} other reasons (--failures N shows more)"
