"""One shard's work: the clips of a task, from their ids to whole shards and a ledger record. Knows no scheduler.

What one process needs to build tasks: a source, the networks, and threads before and behind them. Made once.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from lila_cues.config import BuildRecipe
from lila_cues.datasets import open_dataset
from lila_cues.datasets.base import Dataset, DatasetOptions
from lila_cues.pipeline.cues import ClipPredictions, CueExtractor
from lila_cues.pipeline.frames import ClipFrames, load_clip
from lila_cues.pipeline.setup import Networks, load_networks
from lila_cues.video.reader import require_decoder
from stores import shards
from stores.errors import LilaError
from stores.shards import EncodedClip
from stores.store import CueStore
from stores.writer import TaskWriter

Item = TypeVar("Item")
Result = TypeVar("Result")

TASKS_AT_ONCE = 2
"""While one task is being finished and published, the next one already has frames for the networks."""
MOST_THREADS = 12


class Worker:
    """Decoding ahead of the networks and compression behind them, each in a pool of threads.

    Tasks may be built by `TASKS_AT_ONCE` threads at a time; the networks serve one clip after another.
    """

    def __init__(self, recipe: BuildRecipe, networks: Networks | None = None, threads: int | None = None):
        self.recipe = recipe
        self.source = open_recipe_source(recipe)
        self.maker = CueExtractor(networks or load_networks(recipe.networks, recipe.device), recipe)
        self.seconds = self.maker.seconds
        self.turn = threading.Lock()
        self.stop = threading.Event()
        self.threads = threads or max(2, min(MOST_THREADS, (os.cpu_count() or 2) - 2))
        self.ahead = ThreadPoolExecutor(self.threads, "decode")
        self.encoding = ThreadPoolExecutor(max(2, self.threads // 2), "encode")

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Begin no other clip, and let the threads end with those that are begun."""
        self.stop.set()
        self.ahead.shutdown(cancel_futures=True)
        self.encoding.shutdown()

    def load_clip(self, clip_id: str) -> ClipFrames:
        """The frames of a clip; runs ahead."""
        with self.seconds.host("decode"):
            return load_clip(self.source, clip_id, self.recipe, self.maker.networks.depth_files)

    def compute(self, frames: ClipFrames) -> ClipPredictions:
        """The networks; one clip at a time."""
        with self.turn:
            return self.maker.compute(frames)

    def encode(self, store: CueStore, made: ClipPredictions) -> EncodedClip:
        """PAMR where it is left to the host, and compression; runs behind."""
        cues = self.maker.finish(made)
        with self.seconds.host("compress"):
            return shards.encode_clip(made.frames.clip_id, store.arrays, cues)


def open_recipe_source(recipe: BuildRecipe) -> Dataset:
    """The source that a recipe names."""
    choice = recipe.source
    require_decoder(choice.decoder)
    return open_dataset(choice.name, Path(choice.root), DatasetOptions(choice.decoder, choice.seed))


def run_ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], bound: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item with its future, in order; at most `bound` of them are begun before they are asked for."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) >= bound:
            yield waiting.popleft()
    yield from iter(waiting)


OnClipDone = Callable[[str, str | None], None]
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
    on_clip_done: OnClipDone = lambda clip_id, reason: None,
) -> TaskReport | None:
    """Build what is pending in a task; None if another worker has it or nothing is.

    A clip that cannot be read is recorded with its reason and costs nothing else. When the worker is told to stop, the
    clips that are computed are published and the others stay to be done. `on_clip_done` hears of every clip when it
    is done: its id, and the reason if it failed.
    """
    start = time.perf_counter()
    with store.lock_task(task, only_failed) as writer:
        if writer is None:
            return None
        settled = _build_clips(store, writer, worker, on_clip_done)
    failed = {name: reason for name, reason in settled.items() if reason is not None}
    seconds = worker.seconds.take()
    return TaskReport(task, len(settled) - len(failed), failed, time.perf_counter() - start, seconds)


def _build_clips(
    store: CueStore, writer: TaskWriter, worker: Worker, on_clip_done: OnClipDone
) -> dict[str, str | None]:
    """Decode ahead, compute in turn, write behind, in the order of the clips; the clips, the failed with a reason."""
    names = {clip: store.clip_id(clip) for clip in writer.pending()}
    encoding: deque[tuple[int, Future[EncodedClip] | str]] = deque()
    settled: dict[str, str | None] = {}

    def settle() -> None:
        clip, outcome = encoding.popleft()
        _write(store, writer, worker, clip, outcome)
        settled[names[clip]] = outcome if isinstance(outcome, str) else None
        on_clip_done(names[clip], settled[names[clip]])

    for clip, frames in run_ahead(worker.ahead, lambda clip: worker.load_clip(names[clip]), names, worker.threads):
        if worker.stop.is_set():
            break
        encoding.append((clip, _advance(frames, store, worker)))
        if len(encoding) > BEHIND:
            settle()
    while encoding:
        settle()
    return settled


def _advance(frames: Future[ClipFrames], store: CueStore, worker: Worker) -> Future[EncodedClip] | str:
    """Compute a decoded clip and hand it to compression, or the reason why it cannot be read."""
    with worker.seconds.host("wait for frames"):
        error = frames.exception()
    if error is not None:
        return reason(error)
    computed = worker.compute(frames.result())
    return worker.encoding.submit(worker.encode, store, computed)


def _write(store: CueStore, writer: TaskWriter, worker: Worker, clip: int, outcome: Future[EncodedClip] | str) -> None:
    """Add a clip to the task's shards when it is compressed, or record why it is not there."""
    if isinstance(outcome, str):
        writer.fail(clip, outcome)
        return
    chunks = outcome.result()
    with worker.seconds.host("write"):
        writer.add(clip, chunks)


def reason(error: BaseException) -> str:
    """What the ledger says of a clip that cannot be read; anything that is no fault of the file goes on."""
    if isinstance(error, LilaError):
        return str(error)
    if not isinstance(error, Exception) or isinstance(error, CancelledError | MemoryError):
        raise error
    return f"{type(error).__name__}: {error}"[:LONGEST_REASON]
