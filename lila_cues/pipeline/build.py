"""A build: the store of a config, the queue of its tasks, the loop of this process, and the sum of the reports."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import stores
from lila_cues.config import BuildConfig, RunOptions
from lila_cues.networks.encoder import encoder_sizes
from lila_cues.pipeline.cues import DERIVED
from lila_cues.pipeline.errors import TransientError
from lila_cues.pipeline.setup import NetworkFacts
from lila_cues.pipeline.task import OnClipDone, TaskReport, Worker, tasks_at_once
from stores.errors import LilaError
from stores.ledger import ABSENT, COMPLETE, FAILED, STATUS_NAMES
from stores.plan import Plan, plan
from stores.spec import RGB_CODECS
from stores.store import CueStore

LOG = "build.jsonl"  # in the store's directory: one line per task and builder, with the seconds of each part
KEPT_FAILURES = 20
SIGNAL_SECONDS = 0.5  # a signal that the system hands to another thread waits until the main thread wakes
TRIES = 3  # attempts at a task; failures in a row before a worker is set aside


def store_spec(config: BuildConfig, patch_size: int, width: int) -> stores.StoreSpec:
    """Return what a store of that config holds, given the encoder's patch size in px and its number of channels."""
    if unknown := [name for name in config.extra_cues if name not in DERIVED]:
        raise LilaError(f"expected --extra-cues to be some of {', '.join(DERIVED)}, found {', '.join(unknown)}")
    extra = tuple(DERIVED[name].maps for name in config.extra_cues)
    rgb = RGB_CODECS[config.rgb_codec]
    return stores.StoreSpec(config.geometry(patch_size, width), config.shard_clips, rgb, extra=extra)


def plan_build(config: BuildConfig, n_clips: int) -> Plan:
    """Return the plan of a new store of that config."""
    return plan(store_spec(config, *encoder_sizes(config.encoder)), n_clips)


def open_store(
    path: Path, config: BuildConfig, options: RunOptions, facts: NetworkFacts, clips: Sequence[str]
) -> CueStore:
    """Open the store of that config, or create it."""
    spec = store_spec(config, facts.patch_size, facts.width)
    settings = {"settings": config.to_dict(), "root": str(options.root), "networks": facts.records}
    return stores.open_or_create(path, spec, clips, config.fingerprint(facts.records), {**settings, **facts.provenance})


def tasks_of_shard(tasks: Iterable[int], shard: tuple[int, int]) -> Iterator[int]:
    """Return the tasks of the i-th of n builders: every n-th of all tasks, whether or not it is done."""
    index, count = shard
    return (task for task in tasks if task % count == index)


class TaskQueue:
    """The tasks of a build, in order; those that come back undone are handed out again, up to `TRIES` times each."""

    def __init__(self, store: CueStore, tasks: Iterable[int], only_failed: bool = False) -> None:
        self.store, self.only_failed = store, only_failed
        self.failures = 0  # since the last report
        self._fresh, self._returned = iter(tasks), deque[int]()
        self._again, self._suspects = deque[int](), deque[int]()  # failed once; more often
        self._held: set[int] = set()  # another builder has them, or had
        self._tries: Counter[int] = Counter()
        self._failed_at: dict[int, str] = {}
        self._given_up: dict[int, str] = {}  # with the last reason

    def next(self, worker: str = "") -> int | None:
        """Return a task; those that have failed come last, and not to the worker at which they did."""
        if self._returned:
            return self._returned.popleft()
        return task if (task := next(self._fresh, None)) is not None else self._take(self._again, worker)

    def next_suspect(self, worker: str = "") -> int | None:
        """Return a task that has failed more than once, which may end its worker and what else that builds."""
        return self._take(self._suspects, worker)

    def _take(self, tasks: deque[int], worker: str) -> int | None:
        task = next((task for task in tasks if not worker or self._failed_at[task] != worker), None)
        if task is not None:
            tasks.remove(task)
        return task

    def waiting(self) -> bool:
        if not self._returned and (task := next(self._fresh, None)) is not None:
            self._returned.append(task)
        return bool(self._returned or self._again or self._suspects)

    def put_back(self, task: int) -> None:
        self._returned.append(task)

    def done(self, task: int, report: TaskReport | None) -> None:
        if report is None or report.left:
            self._held.add(task)
        if report is not None:
            self.failures = 0

    def failed(self, task: int, reason: str, worker: str = "") -> None:
        self._tries[task] += 1
        self._failed_at[task] = worker
        self.failures += 1
        if self._tries[task] < TRIES:
            (self._again if self._tries[task] == 1 else self._suspects).append(task)
        else:
            self._given_up[task] = reason

    def take_back_held(self) -> dict[int, str]:
        """Put back the tasks that nobody holds any more and that are not done; return the others, with their holder."""
        held: dict[int, str] = {}
        for task in sorted(self._held.intersection(self.store.pending_tasks(self.only_failed)) if self._held else ()):
            if (holder := self.store.locked_by(task)) is not None:
                held[task] = holder
            elif self._tries[task] < TRIES:
                self._tries[task] += 1
                self._returned.append(task)
        self._held = {*held}
        return held

    def require_done(self) -> None:
        """Raise LilaError, which names a task that failed at every attempt."""
        for task, reason in self._given_up.items():
            raise LilaError(
                f"expected every task to be done, found {len(self._given_up)} that failed {TRIES} times (task {task}: "
                f"{reason}); all others are done: remove the cause, then run the same command again"
            )


def build_local(
    store: CueStore,
    worker: Worker,
    tasks: Iterable[int],
    only_failed: bool = False,
    on_clip_done: OnClipDone = lambda clip_id, reason: None,
) -> Iterator[TaskReport]:
    """Build tasks in this process; yield a report of each when it is published.

    A task that ends by a failing file system is tried again at the end. Raises LilaError where that does not help, or
    at once after `TRIES` such tasks one after the other.
    """
    queue = TaskQueue(store, tasks, only_failed)
    running: dict[Future[TaskReport | None], int] = {}
    try:
        while True:
            while len(running) < tasks_at_once(store.spec.shard_clips):
                if (task := queue.next()) is None and (task := queue.next_suspect()) is None:
                    break
                running[worker.submit(store, task, only_failed, on_clip_done)] = task
            if not running:
                queue.take_back_held()
                if worker.stop.is_set() or not queue.waiting():
                    break
                continue
            for future in wait(running, SIGNAL_SECONDS, FIRST_COMPLETED).done:
                task, report = running.pop(future), None
                try:
                    report = future.result()
                except TransientError as error:
                    queue.failed(task, str(error))
                    if queue.failures >= TRIES:
                        raise
                else:
                    queue.done(task, report)
                if report is not None:
                    yield report
    except BaseException:
        worker.stop.set()
        raise
    queue.require_done()


@dataclass
class Tally:
    """The sum of a run's reports; its size does not depend on the number of clips."""

    complete: int = 0
    failed: int = 0
    absent: int = 0  # known at the end
    reported: int = 0  # complete clips of the reports, without those of other builders
    bytes: int = 0
    flops: float = 0.0
    seconds: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)  # the first `KEPT_FAILURES`: clip id and reason

    @property
    def network_seconds(self) -> float:
        return sum((self.seconds[part] for part in ("encoder", "depth", "flow")), 0.0)

    def settle(self, statuses: np.ndarray) -> None:
        """Count the clips again at the end, by the statuses that the store has of those that were pending."""
        counts = np.bincount(statuses, minlength=len(STATUS_NAMES)).tolist()
        self.reported = self.complete
        self.absent, self.complete, self.failed = counts[ABSENT], counts[COMPLETE], counts[FAILED]

    def add(self, report: TaskReport) -> None:
        self.complete += report.complete
        self.bytes += report.bytes
        self.flops += report.flops
        self.failed += len(report.failed)
        self.seconds.update(report.seconds)
        self.failures = [*self.failures, *report.failed.items()][:KEPT_FAILURES]
