"""A whole build in this process: the store for a recipe, the tasks to do, and their reports."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import stores
from lila_cues.config import BuildRecipe, Records
from lila_cues.pipeline.cues import maps_of
from lila_cues.pipeline.task import TASKS_AT_ONCE, OnClipDone, TaskReport, Worker, build_task
from lila_cues.video.reader import decoder_version
from stores.store import CueStore

EXAMPLES = 20
LOG = "build.jsonl"
"""In the store's folder: a line per task and builder, for who wants to know where the time went."""


def open_store(
    path: Path, recipe: BuildRecipe, clips: Sequence[str], weights: Records, request: dict[str, Any]
) -> CueStore:
    """The store of that recipe, made if there is none; `request` is what the user asked for, kept as it was asked."""
    arguments = (spec_of(recipe), clips, recipe.fingerprint(weights), provenance(recipe, weights, request))
    try:
        return stores.open_or_create(path, *arguments)
    except OSError as error:  # another builder has put its store there meanwhile
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return stores.open_or_create(path, *arguments)


def spec_of(recipe: BuildRecipe) -> stores.StoreSpec:
    """What a store of that recipe holds."""
    return stores.StoreSpec(recipe.geometry, extra=maps_of(recipe.extra_cues))


def provenance(recipe: BuildRecipe, weights: Records, request: dict[str, Any]) -> dict[str, Any]:
    """What is worth knowing of a store's making, beside what shapes the data."""
    packages = ("lila-pixels", "torch", "torchvision", "timm", "numpy", "opencv-python-headless")
    return {
        "recipe": recipe.to_dict(),
        "networks": weights,
        "decoder": decoder_version(recipe.source.decoder),
        "packages": {name: version(name) for name in packages},
        "request": request,
    }


def share_of(tasks: Iterable[int], shard: tuple[int, int]) -> Iterator[int]:
    """The tasks of the i-th of n builders: every n-th of all tasks, whatever is done already."""
    index, count = shard
    return (task for task in tasks if task % count == index)


def build_local(
    store: CueStore, worker: Worker, tasks: Iterable[int], only_failed: bool = False, told: OnClipDone | None = None
) -> Iterator[TaskReport]:
    """Build tasks in this process, `TASKS_AT_ONCE` side by side; a report of each as it is published."""
    hear = told or (lambda clip_id, reason: None)
    with ThreadPoolExecutor(TASKS_AT_ONCE, "task") as pool:
        running: set[Future[TaskReport | None]] = set()
        try:
            for task in tasks:
                running.add(pool.submit(build_task, store, task, worker, only_failed, hear))
                if len(running) >= TASKS_AT_ONCE:
                    running, reports = _finished(running)
                    yield from reports
            while running:
                running, reports = _finished(running)
                yield from reports
        except BaseException:
            worker.stop.set()
            raise


def _finished(running: set[Future[TaskReport | None]]) -> tuple[set[Future[TaskReport | None]], list[TaskReport]]:
    done, rest = wait(running, return_when=FIRST_COMPLETED)
    reports = [future.result() for future in done]
    return rest, [report for report in reports if report is not None]


@dataclass
class Tally:
    """The sum of a run's reports; it does not grow with the number of clips."""

    complete: int = 0
    failed: int = 0
    bytes: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    _examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, store: CueStore, report: TaskReport) -> None:
        """Count a task in."""
        self.complete += report.complete
        self.failed += len(report.failed)
        self.seconds.update(report.seconds)
        self._examples = [*self._examples, *report.failed.items()][:EXAMPLES]
        record = store.ledger.latest(report.task)
        self.bytes += sum(record.shard_bytes.values()) if record else 0

    def shown(self, count: int) -> list[tuple[str, str]]:
        """Some failed clips, each with its reason."""
        return self._examples[:count]


def log_report(store: CueStore, report: TaskReport) -> None:
    """Append a task's report to the store's log: one write, so that builders side by side do not mix lines."""
    line = {"when": round(time.time(), 3), "host": socket.gethostname(), "process": os.getpid(), **report.to_dict()}
    with open(Path(store.path) / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
