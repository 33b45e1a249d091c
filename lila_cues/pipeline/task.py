"""One shard's work: the clips of a task, from their ids to whole shards and a ledger record. Knows no scheduler."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import asdict, dataclass, field
from typing import Any

from lila_cues.pipeline.intake import ClipFrames
from lila_cues.pipeline.worker import Worker, run_ahead
from stores.errors import LilaError
from stores.payloads import ClipPayloads
from stores.store import CueStore
from stores.writer import TaskWriter

Told = Callable[[str, str | None], None]
BEHIND = 2
"""Clips computed and not yet written, per task."""
LONGEST_REASON = 400


@dataclass(frozen=True)
class TaskReport:
    """What one task came to. `seconds`: per part, of this worker since its last report."""

    task: int
    complete: int
    failed: dict[str, str] = field(default_factory=dict)
    """Clip id → reason."""
    wall: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As a line of the store's log has it."""
        return asdict(self)


def build_task(
    store: CueStore,
    task: int,
    worker: Worker,
    only_failed: bool = False,
    told: Told = lambda clip_id, reason: None,
) -> TaskReport | None:
    """Build what is pending in a task; None if another worker has it or nothing is.

    A clip that cannot be read is recorded with its reason and costs nothing else. When the worker is told to stop, the
    clips that are computed are published and the others stay to be done. `told` hears of every clip when it
    is done: its id, and the reason if it failed.
    """
    start = time.perf_counter()
    with store.claim(task, only_failed) as writer:
        if writer is None:
            return None
        settled = _build_clips(store, writer, worker, told)
    failed = {name: reason for name, reason in settled.items() if reason is not None}
    seconds = worker.seconds.take()
    return TaskReport(task, len(settled) - len(failed), failed, time.perf_counter() - start, seconds)


def _build_clips(store: CueStore, writer: TaskWriter, worker: Worker, told: Told) -> dict[str, str | None]:
    """Decode ahead, compute in turn, write behind, in the order of the clips; the clips, the failed with a reason."""
    names = {clip: store.clip_id(clip) for clip in writer.pending()}
    behind: deque[tuple[int, Future[ClipPayloads] | str]] = deque()
    settled: dict[str, str | None] = {}

    def settle() -> None:
        clip, outcome = behind.popleft()
        _write(store, writer, worker, clip, outcome)
        settled[names[clip]] = outcome if isinstance(outcome, str) else None
        told(names[clip], settled[names[clip]])

    for clip, frames in run_ahead(worker.ahead, lambda clip: worker.take_in(names[clip]), names, worker.threads):
        if worker.stop.is_set():
            break
        behind.append((clip, _advance(frames, store, worker)))
        if len(behind) > BEHIND:
            settle()
    while behind:
        settle()
    return settled


def _advance(frames: Future[ClipFrames], store: CueStore, worker: Worker) -> Future[ClipPayloads] | str:
    """Compute a decoded clip and hand it to compression, or the reason why it cannot be read."""
    with worker.seconds.host("wait for frames"):
        error = frames.exception()
    if error is not None:
        return reason(error)
    computed = worker.compute(frames.result())
    return worker.behind.submit(worker.encode, store, computed)


def _write(store: CueStore, writer: TaskWriter, worker: Worker, clip: int, outcome: Future[ClipPayloads] | str) -> None:
    """Add a clip to the task's shards when it is compressed, or record why it is not there."""
    if isinstance(outcome, str):
        writer.fail(clip, outcome)
        return
    chunks = outcome.result()
    with worker.seconds.host("write"):
        writer.add(clip - store.task_clips(writer.task).start, chunks)


def reason(error: BaseException) -> str:
    """What the ledger says of a clip that cannot be read; anything that is no fault of the file goes on."""
    if isinstance(error, LilaError):
        return str(error)
    if not isinstance(error, Exception) or isinstance(error, CancelledError | MemoryError):
        raise error
    return f"{type(error).__name__}: {error}"[:LONGEST_REASON]
