"""Many workers: processes of this machine, or a Dask cluster that is running. The only file that knows `distributed`.

The scheduler sees a store's path and task numbers. What a task is, and that it is done, is between a worker and the
store: a task that is given twice is claimed once, and a task whose worker died is given to another.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import cast

import torch
from distributed import Client, Future, KilledWorker, LocalCluster, WorkerPlugin, as_completed, get_worker
from distributed.worker import Worker as DaskWorker

import stores
from lila_cues.config import BuildRecipe
from lila_cues.pipeline.task import TASKS_AT_ONCE, TaskReport, Worker, build_task
from stores.errors import LilaError
from stores.store import CueStore

PLUGIN = "lila-cues"
WAITING = 2
"""Tasks that wait at the scheduler for each one in work: the list of all tasks is never sent."""
CONNECT_SECONDS = 20


def build_distributed(
    store: CueStore,
    recipe: BuildRecipe,
    tasks: Iterable[int],
    only_failed: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
) -> Iterator[TaskReport]:
    """Build tasks on `workers` processes of this machine or on the cluster at `scheduler`; reports as they are done.

    A task whose workers died time and again is left undone; the error that names it comes when all others are done.
    """
    with _client(workers, scheduler) as client:
        client.register_plugin(Builder(recipe, None if scheduler else workers or 1), name=PLUGIN)
        path, lost = str(Path(store.path).absolute()), []
        for task, future in _in_work(client, path, iter(tasks), only_failed):
            try:
                report = future.result()
            except KilledWorker:
                lost.append(task)
                continue
            if report is not None:
                yield report
    if lost:
        raise LilaError(
            f"expected every task to be done, found {len(lost)} whose workers died again and again (task {lost[0]} "
            f"first); look for a lack of memory, then run the same command again"
        )


class Builder(WorkerPlugin):
    """What a worker process keeps: the networks, made at its first task and once.

    `beside`: how many processes share this machine's cores and GPUs; None where another cluster has seen to that.
    """

    def __init__(self, recipe: BuildRecipe, beside: int | None) -> None:
        self.recipe, self.beside = recipe, beside

    def setup(self, worker: DaskWorker) -> None:
        """On the worker, when it starts."""
        self.name = worker.name
        self.lock = threading.Lock()
        self.made: Worker | None = None

    def teardown(self, worker: DaskWorker) -> None:
        """On the worker, when it ends."""
        if self.made is not None:
            self.made.close()

    def worker(self) -> Worker:
        """The process's one `Worker`."""
        with self.lock:
            if self.made is None:
                threads = None if self.beside is None else max(2, (os.cpu_count() or 1) // self.beside)
                self.made = Worker(replace(self.recipe, device=self._device()), threads=threads)
            return self.made

    def _device(self) -> str:
        """Of this machine's processes, each takes the next GPU; elsewhere, the one that its cluster shows it."""
        if self.recipe.device != "cuda" or self.beside is None:
            return self.recipe.device
        return f"cuda:{int(self.name) % torch.cuda.device_count()}"


def build_remote(path: str, task: int, only_failed: bool) -> TaskReport | None:
    """One task, on a worker."""
    builder = cast(Builder, get_worker().plugins[PLUGIN])
    return build_task(stores.open(path), task, builder.worker(), only_failed)


def _in_work(client: Client, path: str, tasks: Iterator[int], only_failed: bool) -> Iterator[tuple[int, Future]]:
    """Each task with its future when that is done; as many at the scheduler as keep its workers busy."""
    numbers: dict[Hashable, int] = {}
    done = as_completed(loop=client.loop)

    def submit() -> None:
        task = next(tasks, None)
        if task is not None:
            future = client.submit(build_remote, path, task, only_failed, pure=False)
            numbers[future.key] = task
            done.add(future)

    for _ in range((1 + WAITING) * max(1, sum(client.nthreads().values()))):
        submit()
    for future in done:
        yield numbers.pop(future.key), future
        submit()


@contextmanager
def _client(workers: int | None, scheduler: str | None) -> Iterator[Client]:
    with ExitStack() as stack:
        with _deaf_to_interrupts():
            target = scheduler or stack.enter_context(_local(workers or 1))
        try:
            client = stack.enter_context(Client(target, timeout=CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            raise LilaError(
                f"expected a Dask scheduler at {scheduler}, found none that answers ({error}); "
                "give its address as --scheduler tcp://HOST:8786"
            ) from error
        yield client


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Threads and processes begun inside never see Ctrl-C, which a terminal sends to all: who began them ends them.

    One that comes meanwhile reaches this process afterwards.
    """
    resource_tracker.ensure_running()  # its start would take the mask away
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _local(workers: int) -> LocalCluster:
    """Processes of this machine, the cores shared evenly; no limit of memory but the machine's."""
    share = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=TASKS_AT_ONCE,
        processes=True,
        memory_limit=0,
        dashboard_address=":0",
        silence_logs=logging.ERROR,
        env={"OMP_NUM_THREADS": share},
    )
