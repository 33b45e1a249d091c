"""Functions that run in worker processes: check that a worker is fit for a build, and build tasks.

A process holds one set of networks per build, from the check until the build ends, and refuses tasks of other builds.
Does not import the scheduler.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import stores
from lila_cues import devices
from lila_cues.config import BuildConfig, RunOptions, spread
from lila_cues.datasets import open_dataset
from lila_cues.pipeline.build import SIGNAL_SECONDS
from lila_cues.pipeline.errors import DeviceLost, TransientError
from lila_cues.pipeline.setup import NetworkFacts
from lila_cues.pipeline.task import TaskReport, Worker, tasks_at_once
from stores.atomic import explain_os_errors
from stores.errors import LilaError
from stores.ledger import writer_id
from stores.metadata import SCRATCH

VISIBLE_SECONDS = 5.0
"""After which a file that the client has just written is seen through caches of a network file system."""
SAMPLES = 5  # clips whose files each worker must see
IDLE_SECONDS = 600.0  # after which networks are dropped whose client has not used them


@dataclass(frozen=True)
class Build:
    """Description of a build for workers, with files that they must see as the client does."""

    id: str
    config: BuildConfig
    options: RunOptions
    token: Path  # a file beside the store, or in it, that the client has just written
    samples: tuple[tuple[str, int], ...]  # clips, and the sizes of their files in bytes; 0 for folders


@contextmanager
def describe(config: BuildConfig, options: RunOptions, clips: Sequence[str]) -> Iterator[Build]:
    """Describe a build to workers; during the context a file exists, beside or in the store, that they must see."""
    assert options.store is not None
    store, dataset = options.store.absolute(), open_dataset(config.dataset, options.root, config.decoder, config.seed)
    folder = next(place for place in (store / SCRATCH, store, *store.parents) if place.is_dir())
    paths = {clip_id: dataset.path(clip_id) for clip_id in spread(clips, SAMPLES)}
    samples = [(clip_id, path.stat().st_size if path.is_file() else 0) for clip_id, path in paths.items()]
    token = folder / f".check-{uuid.uuid4().hex}-{writer_id()}"
    root = replace(options, root=options.root.absolute())
    try:
        with explain_os_errors(folder, "writing a file that workers look for"):
            token.touch()
        yield Build(uuid.uuid4().hex, config, root, token, tuple(samples))
    finally:
        token.unlink(missing_ok=True)


@dataclass(frozen=True)
class Assignment:
    """One task, for a worker that was checked for this build."""

    build: str
    store: str  # absolute path
    digest: str  # of the store's settings
    task: int
    only_failed: bool


@dataclass(frozen=True)
class Outcome:
    """Result of an assignment."""

    report: TaskReport | None = None
    error: str | None = None
    transient: bool = False  # the worker can run other tasks
    lost: bool = False  # the process can do nothing more on its device
    unknown: bool = False  # the process was not checked for the build, or its networks are gone


@dataclass
class _Held:
    """The networks of one build in this process."""

    worker: Worker
    facts: NetworkFacts
    slots: threading.Semaphore
    active: int = 0  # assignments
    used: float = field(default_factory=time.monotonic)


_HELD: dict[str, _Held] = {}
_GUARD, _LOADING = threading.Lock(), threading.Lock()


def choose_device(name: str) -> str:
    """Return the kind of device that a --device option means in this process."""
    return devices.choose(name).type if name in ("auto", "cuda") else str(devices.choose(name))


def check(build: Build, place: int, sharing: int) -> NetworkFacts:
    """Load the networks of a build, once; LilaError if this process does not see what the client sees.

    Args:
        place: number of this process among the workers of its host, which share its GPUs in turn.
        sharing: how many these are; they share the cores.
    """
    _require_token(build.token)
    _require_samples(build)
    with _LOADING:
        now = time.monotonic()
        for other in [key for key, held in _HELD.items() if not held.active and now - held.used > IDLE_SECONDS]:
            release(other)
        if build.id not in _HELD:
            device = build.options.device
            # `dask cuda worker` has chosen already; the processes of --workers see what the client sees
            chosen = build.options.scheduler and "CUDA_VISIBLE_DEVICES" in os.environ
            if devices.choose(device).type == "cuda" and ":" not in device and not chosen:
                import torch

                device = f"cuda:{place % torch.cuda.device_count()}"
            options = replace(build.options, device=device)
            worker = Worker(build.config, options, threads=max(2, devices.usable_cores() // sharing))
            facts = worker.extractor.networks.facts(build.config, choose_device(device))
            _HELD[build.id] = _Held(worker, facts, threading.Semaphore(tasks_at_once(build.config.shard_clips)))
        return _HELD[build.id].facts


def build_task(assignment: Assignment, closing: Callable[[], bool]) -> Outcome:
    """Build a task in the stream of this process, when one of its few places is free.

    closing: whether the process is about to end; then the clips that are predicted are published.
    """
    with _GUARD:
        held = _HELD.get(assignment.build)
        if held is None:
            return Outcome(unknown=True)
        held.active += 1
    try:
        with held.slots:
            if held.worker.stop.is_set():
                return Outcome(unknown=_HELD.get(assignment.build) is not held)
            store = stores.open(assignment.store)
            if store.header.digest != assignment.digest:
                raise LilaError(
                    f"expected the store of this build at {assignment.store}, found one with other settings; leave it "
                    "in its place until the build ends"
                )
            result = held.worker.submit(store, assignment.task, assignment.only_failed)
            while not wait([result], SIGNAL_SECONDS).done:
                if closing():
                    held.worker.stop.set()
            return Outcome(result.result())
    except Exception as error:
        reason = str(error) if isinstance(error, LilaError) else f"{type(error).__name__}: {error}"
        if held.worker.error is not None:
            release(assignment.build, held)
        return Outcome(None, reason, isinstance(error, TransientError), isinstance(held.worker.error, DeviceLost))
    finally:
        with _GUARD:
            held.active -= 1
            held.used = time.monotonic()


def stop(build: str) -> None:
    """Stop a build in this process: predicted clips are published, no others are begun."""
    if held := _HELD.get(build):
        held.worker.stop.set()


def release(build: str, only: _Held | None = None) -> None:
    """Drop the networks of a build; their stream ends in the background."""
    with _GUARD:
        held = _HELD.get(build)
        if held is None or only not in (None, held):
            return
        del _HELD[build]
    held.worker.stop.set()
    threading.Thread(target=held.worker.__exit__, daemon=True).start()


def _require_token(token: Path) -> None:
    deadline = time.monotonic() + VISIBLE_SECONDS
    while not token.is_file():
        if time.monotonic() > deadline:
            raise LilaError(
                f"expected the folder {token.parent} that the client sees, found "
                f"{'another one' if token.parent.is_dir() else 'none'} there; mount it on this host at the same path"
            )
        time.sleep(0.1)


def _require_samples(build: Build) -> None:
    config, root = build.config, build.options.root
    dataset = open_dataset(config.dataset, root, config.decoder, config.seed)
    for clip_id, size in build.samples:
        path = dataset.path(clip_id)
        found = "nothing" if not path.exists() else "another" if path.is_file() and path.stat().st_size != size else ""
        if found:
            raise LilaError(
                f"expected clip {clip_id} in {root} as the client sees it, found {found}; mount the data on this host "
                "at the same path"
            )
