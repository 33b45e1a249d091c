"""A build: the store of a config, the tasks to do in this process, and the sum of their reports."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import stores
from lila_cues.config import BuildConfig, RunOptions
from lila_cues.networks.encoder import encoder_sizes
from lila_cues.pipeline.cues import DERIVED
from lila_cues.pipeline.setup import Networks
from lila_cues.pipeline.task import OnClipDone, TaskReport, Worker, tasks_at_once
from lila_cues.video.decoders import decoder_version
from stores.atomic import append_line
from stores.errors import LilaError
from stores.plan import Plan, plan
from stores.spec import RGB_CODECS
from stores.store import CueStore

LOG = "build.jsonl"
"""In the store's directory: one line per task and builder, with the seconds of each part."""
KEPT_FAILURES = 20
SIGNAL_SECONDS = 0.5
"""A signal that the system hands to another thread waits until the main thread wakes."""
PACKAGES = ("lila-pixels", "torch", "torchvision", "timm", "numpy", "opencv-python-headless")


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
    path: Path, config: BuildConfig, options: RunOptions, networks: Networks, clips: Sequence[str]
) -> CueStore:
    """Open the store of that config, or create it."""
    encoder, records = networks.encoder, networks.records()
    spec = store_spec(config, encoder.patch_size, encoder.width)
    provenance = {
        "settings": config.to_dict(),
        "root": str(options.root),
        "device": options.device,
        "networks": records,
        "decoder": decoder_version(config.decoder),
        "packages": {name: version(name) for name in PACKAGES},
    }
    arguments = (spec, clips, config.fingerprint(records), provenance)
    try:
        return stores.open_or_create(path, *arguments)
    except OSError as error:  # another builder has created the store meanwhile
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return stores.open_or_create(path, *arguments)


def tasks_of_shard(tasks: Iterable[int], shard: tuple[int, int]) -> Iterator[int]:
    """Return the tasks of the i-th of n builders: every n-th of all tasks, whether or not it is done."""
    index, count = shard
    return (task for task in tasks if task % count == index)


def build_local(
    store: CueStore,
    worker: Worker,
    tasks: Iterable[int],
    only_failed: bool = False,
    on_clip_done: OnClipDone = lambda clip_id, reason: None,
) -> Iterator[TaskReport]:
    """Build tasks in this process; yield a report of each when it is published."""
    remaining = iter(tasks)
    running: set[Future[TaskReport | None]] = set()
    try:
        while True:
            for task in islice(remaining, tasks_at_once(store.spec.shard_clips) - len(running)):
                running.add(worker.submit(store, task, only_failed, on_clip_done))
            if not running:
                return
            done, running = wait(running, SIGNAL_SECONDS, FIRST_COMPLETED)
            reports = [future.result() for future in done]
            yield from (report for report in reports if report is not None)
    except BaseException:
        worker.stop.set()
        raise


@dataclass
class Tally:
    """The sum of a run's reports; its size does not depend on the number of clips."""

    complete: int = 0
    failed: int = 0
    bytes: int = 0
    flops: float = 0.0
    seconds: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)  # the first `KEPT_FAILURES`: clip id and reason

    @property
    def network_seconds(self) -> float:
        return sum((self.seconds[part] for part in ("encoder", "depth", "flow")), 0.0)

    def add(self, report: TaskReport) -> None:
        self.complete += report.complete
        self.bytes += report.bytes
        self.flops += report.flops
        self.failed += len(report.failed)
        self.seconds.update(report.seconds)
        self.failures = [*self.failures, *report.failed.items()][:KEPT_FAILURES]


def log_report(store: CueStore, report: TaskReport) -> None:
    """Append a report to the store's log in one write, so that builders side by side do not mix lines."""
    line = {"when": round(time.time(), 3), "host": socket.gethostname(), "process": os.getpid(), **asdict(report)}
    append_line(Path(store.path) / LOG, line)
