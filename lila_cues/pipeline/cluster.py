"""Many workers: processes of this machine, or a running Dask cluster. The only module that imports `distributed`.

The scheduler sees a store's path and task numbers. What a task is, and that it is done, is between a worker and the
store: a task that is given twice is locked once, and a task whose worker died is given to another.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import cast

import torch
from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin, as_completed, get_worker
from distributed.worker import Worker as DaskWorker

import stores
from lila_cues.config import BuildConfig, RunOptions
from lila_cues.devices import usable_cores
from lila_cues.pipeline.task import DeviceLost, TaskReport, Worker, tasks_at_once
from stores.errors import LilaError
from stores.store import CueStore

PLUGIN = "lila-cues"
WAITING = 2
"""Tasks that wait at the scheduler for each one in work: the list of all tasks is never sent."""
CONNECT_SECONDS = 20


def build_distributed(
    store: CueStore, config: BuildConfig, options: RunOptions, tasks: Iterable[int]
) -> Iterator[TaskReport]:
    """Build tasks on `options.workers` processes or at `options.scheduler`; yield a report of each when it is done.

    A task whose workers died repeatedly is left undone; the error that names it is raised after all others are done.
    """
    path, waiting, lost = str(Path(store.path).absolute()), iter(tasks), []
    numbers: dict[Hashable, int] = {}  # the tasks at the scheduler by their futures' keys
    with _client(options, store.spec.shard_clips) as client:
        client.register_plugin(WorkerSetup(config, options), name=PLUGIN)
        done = as_completed(loop=client.loop)

        def submit(count: int) -> None:
            for task in islice(waiting, count):
                future = client.submit(build_remote, path, task, options.only_failed, pure=False)
                numbers[future.key] = task
                done.add(future)

        try:
            submit((1 + WAITING) * max(1, sum(client.nthreads().values())))  # just enough to keep the workers busy
            for future in done:
                task = numbers.pop(future.key)
                try:
                    report = future.result()
                except KilledWorker:
                    lost.append(task)
                else:
                    if report is not None:
                        yield report
                submit(1)
        except BaseException:
            client.run(stop_worker)
            for _ in done:  # until the clips that are predicted are published
                pass
            raise
    if lost:
        raise LilaError(
            f"expected every task to be done, found {len(lost)} whose workers died repeatedly (task {lost[0]} "
            f"first); look for a lack of memory, then run the same command again"
        )


class WorkerSetup(WorkerPlugin):
    """What a worker process keeps: the networks, loaded once at its first task."""

    def __init__(self, config: BuildConfig, options: RunOptions) -> None:
        self.config, self.options = config, options

    def setup(self, worker: DaskWorker) -> None:
        """Called on the worker when it starts."""
        self.name = worker.name
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.loaded: Worker | None = None

    def teardown(self, worker: DaskWorker) -> None:
        """Called on the worker when it ends, before it waits for its tasks."""
        self.stop.set()

    def worker(self) -> Worker:
        """Return the process's one `Worker`; on this machine, its processes share the cores and take turns at GPUs."""
        with self.lock:
            if self.loaded is None:
                options, threads = self.options, None
                if not options.scheduler:
                    threads = max(2, usable_cores() // (options.workers or 1))
                    if options.device == "cuda":
                        options = replace(options, device=f"cuda:{int(self.name) % torch.cuda.device_count()}")
                self.loaded = Worker(self.config, options, threads=threads, stop=self.stop)
            return self.loaded


def build_remote(path: str, task: int, only_failed: bool) -> TaskReport | None:
    """Build one task in the stream of this process; runs on a worker, in one of its threads per task in the stream."""
    plugin = cast(WorkerSetup, get_worker().plugins[PLUGIN])
    if plugin.stop.is_set():
        return None
    worker, report = plugin.worker(), None
    with suppress(DeviceLost):
        report = worker.submit(stores.open(path), task, only_failed).result()
    if isinstance(worker.error, DeviceLost):
        worker.__exit__()  # publishes what is done
        logging.error("%s", worker.error)
        os._exit(1)  # Dask starts a new process, and gives it the tasks of this one
    return report


def stop_worker(dask_worker: DaskWorker) -> None:
    """Let a worker's tasks publish the clips that are predicted, and begin no other; runs on the worker."""
    cast(WorkerSetup, dask_worker.plugins[PLUGIN]).stop.set()


@contextmanager
def _client(options: RunOptions, shard_clips: int) -> Iterator[Client]:
    """Connect to the scheduler, or start processes on this machine that share its cores.

    Threads and processes started here never receive Ctrl-C and SIGTERM, which a terminal, SLURM and systemd send to all
    of them: this process ends them. A signal meanwhile reaches it afterwards.
    """
    workers = options.workers or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // workers))
    with ExitStack() as stack:
        resource_tracker.ensure_running()  # starting it would reset the mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            target = options.scheduler or stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=tasks_at_once(shard_clips),
                    processes=True,
                    memory_limit=0,  # none but the machine's
                    dashboard_address=":0",
                    silence_logs=logging.ERROR,
                    env={"OMP_NUM_THREADS": threads},
                )
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            client = stack.enter_context(Client(target, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            raise LilaError(
                f"expected a Dask scheduler at {options.scheduler}, found none that answers ({error}); "
                "give its address as --scheduler tcp://HOST:8786"
            ) from error
        yield client
