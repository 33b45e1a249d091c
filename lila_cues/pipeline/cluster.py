"""Many workers: processes of this machine, or a running Dask cluster. The only module that imports `distributed`.

The client keeps the queue of tasks and submits a few of them to each worker, by its address; the scheduler sees only
the path of a store and task numbers. Completed tasks are recorded in the store, and its locks keep a task that is
submitted twice from being built twice. Each worker is checked before its first task; unfit ones are excluded and named.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import dask
from distributed import Client, Future, LocalCluster, Security, get_worker, rpc

from lila_cues.config import RunOptions
from lila_cues.devices import usable_cores
from lila_cues.pipeline import remote
from lila_cues.pipeline.build import SIGNAL_SECONDS, TaskQueue
from lila_cues.pipeline.remote import Assignment, Build, Outcome
from lila_cues.pipeline.roster import CHECK, DEVICE, INTRODUCE, Member, Roster
from lila_cues.pipeline.setup import PACKAGE, NetworkFacts
from lila_cues.pipeline.task import TaskReport, tasks_at_once
from stores.errors import LilaError, first_line
from stores.store import CueStore

CONNECT_SECONDS = 10
ANSWER_SECONDS = 20  # within which a scheduler that is there answers
CHECK_SECONDS = 60  # waited for checks of other workers when one is done, before the first task
HELD_SECONDS = 60  # waited at the end for a task whose worker the scheduler has lost, while that still holds its lock
STOP_SECONDS = 300
CLOSE_SECONDS = 2
TASK = "task"
REMOTE = "lila_cues.pipeline.remote"  # a worker ends when it is sent what it cannot import


class SchedulerLost(LilaError):
    """The scheduler does not answer any more."""


class Cluster:
    """The workers of one build; `notify` receives messages for the user, `await_first` waits for a first worker."""

    def __init__(
        self, client: Client, options: RunOptions, shard_clips: int, notify: Callable[[str], None], await_first: bool
    ) -> None:
        self.client, self.options, self.notify, self.await_first = client, options, notify, await_first
        self.place = f"the scheduler {options.scheduler}" if options.scheduler else "this machine"
        self.roster = Roster(notify)
        self.build: Build | None = None
        self._slots = tasks_at_once(shard_clips)  # tasks that one process holds at most
        # sent as such, since a worker may be without this package
        introduce = lambda: (  # noqa: E731
            f"{socket.gethostname()}:{os.getpid()}",
            next((found.version for found in metadata.distributions(name=PACKAGE) if find_spec(REMOTE)), None),
        )
        self._questions: dict[str, Callable[[Member], tuple[Any, ...]]] = {INTRODUCE: lambda member: (introduce,)}
        self._events: SimpleQueue[Future] = SimpleQueue()
        self._futures: dict[str, tuple[Future, Member, str]] = {}  # by key, with the question or TASK
        self._queue: TaskQueue | None = None
        self._scheduler, self._refreshed = "", 0.0
        self._demand: Future | None = None

    def device(self, name: str) -> str:
        """Return the device that `--device NAME` stands for on the workers: cuda where one of them has a GPU."""
        self._questions[DEVICE] = lambda member: (remote.choose_device, name)
        found = [member.answers[DEVICE] for member in self._answers(DEVICE)]
        return next((device for device in found if device.startswith("cuda")), found[0])

    def check(self, build: Build, store: CueStore | None) -> NetworkFacts:
        """Check the present workers, and later each that joins; return the facts of the networks of most of them.

        An existing `store` determines the networks and the decoder. LilaError if no worker is fit.
        """
        self.build = build
        if store is not None:
            self.roster.expect(store)

        def question(member: Member) -> tuple[Any, ...]:
            build.token.touch()  # others remove files that are a day old
            return remote.check, build, member.place, self.roster.sharing(member)

        self._questions[CHECK] = question
        return self.roster.agree(self._answers(CHECK), build.config)

    def reports(self, store: CueStore, tasks: Iterable[int], only_failed: bool = False) -> Generator[TaskReport]:
        """Build tasks on the workers that were checked; yield a report of each when it is done.

        LilaError, after all others are done, if a task fails repeatedly; at once if no worker is left.
        """
        assert self.build is not None
        build, path, digest = self.build.id, str(Path(store.path).absolute()), store.header.digest
        self._queue, last = TaskQueue(store, tasks, only_failed), time.monotonic()
        try:
            while True:
                for outcome in self._step():
                    if outcome.report is not None:
                        last = time.monotonic()
                        yield outcome.report
                self._hand_out(self._queue, lambda task: Assignment(build, path, digest, task, only_failed))
                if any(member.tasks for member in self.roster.members.values()) or self._queue.waiting():
                    continue
                held = self._queue.take_back_held()
                ours = self.roster.labels.intersection(held.values())
                if not self._queue.waiting() and not (ours and time.monotonic() - last < HELD_SECONDS):
                    break
        except BaseException as error:
            if not isinstance(error, SchedulerLost):
                self._stop()
            raise
        self._queue.require_done()

    def close(self) -> None:
        if self.build is not None and self.client.status == "running":
            self._run(remote.release, self.build.id)

    def _hand_out(self, queue: TaskQueue, assignment: Callable[[int], Assignment]) -> None:
        """Assign tasks to all fit workers; at the end, move queued tasks to idle workers."""

        def assign(member: Member, task: int) -> None:
            member.tasks[self._submit(member, TASK, build_remote, assignment(task))] = task

        members = self.roster.members.values()
        ready = [member for member in members if member.fit and not (member.paused or member.alone)]
        slots = {member.address: min(member.threads, self._slots) for member in ready}
        depth = 1 if self.options.workers else 2  # clusters grow where tasks wait
        for filled in range(depth * max(slots.values(), default=0)):  # one task each, then a second one
            for member in ready:
                worker = member.address if len(ready) > 1 else ""
                if not member.alone and len(member.tasks) == filled < depth * slots[member.address]:
                    if (task := queue.next(worker)) is not None:
                        assign(member, task)
                    elif not filled and (task := queue.next_suspect(worker)) is not None:
                        assign(member, task)
                        member.alone = True
        for member in (member for member in ready if not member.tasks):
            donor = max(ready, key=lambda other: len(other.tasks) - slots[other.address])
            if len(donor.tasks) > slots[donor.address]:
                assign(member, self._take_back(donor, [*donor.tasks][-1]))

    def _answers(self, question: str) -> list[Member]:
        """Return the workers that have answered a question, after all have or `CHECK_SECONDS` after the first."""
        first = None
        while True:
            for _ in self._step():
                pass
            able = [member for member in self.roster.members.values() if member.reason is None]
            done = [member for member in able if question in member.answers]
            first = first or (time.monotonic() if done else None)
            if first is not None and (len(done) == len(able) or time.monotonic() - first > CHECK_SECONDS):
                return sorted(done, key=lambda member: member.address)

    def _step(self) -> Iterator[Outcome]:
        """Update the list of workers, question new ones, and yield the outcomes that arrive within a moment."""
        members = self.roster.members
        if time.monotonic() - self._refreshed > max(1.0, len(members) / 50):
            self._refresh()
        for member in members.values():
            question = next((name for name in self._questions if name not in member.answers), None)
            if question is not None and member.asked is None and member.reason is None:
                member.asked = question
                self._submit(member, question, *self._questions[question](member))
            for key in [*member.tasks] if member.idle and self._queue else ():
                self._queue.put_back(self._take_back(member, key))  # type: ignore[union-attr]
        with suppress(Empty):
            future = self._events.get(timeout=SIGNAL_SECONDS)
            while True:
                if (outcome := self._handle(future)) is not None:
                    yield outcome
                future = self._events.get_nowait()

    def _submit(self, member: Member, kind: str, function: Callable[..., Any], *arguments: Any) -> str:
        place = {"workers": [member.address], "allow_other_workers": False}
        future = self.client.submit(function, *arguments, pure=False, **place)
        self._futures[str(future.key)] = (future, member, kind)
        future.add_done_callback(self._events.put)
        return str(future.key)

    def _handle(self, future: Future) -> Outcome | None:
        """Process an answer or the outcome of a task; return the outcome unless it is a failure."""
        key = str(future.key)
        if key not in self._futures:  # taken back
            return None
        _, member, kind = self._futures.pop(key)
        answer: Any = None
        try:
            answer = Outcome(unknown=True) if future.cancelled() else future.result(timeout=ANSWER_SECONDS)
            outcome = answer if isinstance(answer, Outcome) else Outcome()
        except Exception as error:
            outcome = Outcome(error=str(error) if isinstance(error, LilaError) else f"{type(error).__name__}: {error}")
        if kind != TASK:
            member.asked = None
            if outcome.error is not None:
                self.roster.leave_out(member, outcome.error)
            elif not outcome.unknown:
                self.roster.answered(member, kind, answer, self.build.config if self.build else None)
            return None
        assert self._queue is not None
        task, member.alone = member.tasks.pop(key), False
        if outcome.unknown or (outcome.error is not None and not outcome.transient):
            member.answers.pop(CHECK, None)  # it loads its networks anew
        if outcome.unknown:
            self._queue.put_back(task)
        elif outcome.error is None:
            self._queue.done(task, outcome.report)
            self.roster.succeeded(member)
            return outcome
        else:
            self._queue.failed(task, f"{outcome.error} (worker {member.label})", member.address)
            self.roster.failed(member, outcome.error, outcome.lost)
            if outcome.lost and member.nanny:
                with suppress(Exception):
                    self.client.restart_workers([member.address], timeout=ANSWER_SECONDS, raise_for_error=False)
        return None

    def _take_back(self, member: Member, key: str) -> int:
        """Cancel a task; if its worker has already begun it, the store's lock keeps others from it."""
        self._futures.pop(key)[0].cancel()
        return member.tasks.pop(key)

    def _refresh(self) -> None:
        """Get the scheduler's list of workers; SchedulerLost if it does not answer, LilaError if no worker is fit."""
        try:
            if self.client.status != "running":
                raise OSError("the connection is closed")
            info = self.client.sync(self.client.scheduler.identity, callback_timeout=ANSWER_SECONDS)
            self._scheduler = self._scheduler or info["id"]
            if info["id"] != self._scheduler:
                raise OSError("another one is in its place")
        except Exception as error:
            raise SchedulerLost(
                f"expected an answer of {self.place}, found that the connection is lost "
                f"({str(error) or type(error).__name__}); completed tasks are kept: run the same command again when it "
                "is back"
            ) from error
        self._refreshed = time.monotonic()
        for member in self.roster.update(info["workers"]):
            for index, key in enumerate([*member.tasks]):
                task = self._take_back(member, key)
                if index < min(member.threads, self._slots):
                    self._queue.failed(task, f"its worker {member.label} ended; look for a lack of memory")  # type: ignore[union-attr]
                else:  # it was not begun
                    self._queue.put_back(task)  # type: ignore[union-attr]
            self._futures = {key: job for key, job in self._futures.items() if job[1] is not member}
        self.roster.require_some()
        if info["workers"]:
            self._demand = None
        elif not self.await_first:
            raise LilaError(
                f"expected workers at {self.place}, found none; start `dask worker` on the hosts that build"
            )
        elif self._demand is None:
            self.notify(f"no worker at {self.place} yet; the build starts when one joins")
            self._demand = self.client.submit(os.getpid, pure=False)  # for which an adaptive cluster starts one

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function on the workers that hold networks of the build."""
        asked = [member.address for member in self.roster.members.values() if CHECK in member.answers]
        with suppress(Exception):
            self.client.run(function, *arguments, workers=asked, on_error="ignore", callback_timeout=ANSWER_SECONDS)

    def _stop(self) -> None:
        """Wait until the clips that are predicted are published."""
        assert self.build is not None
        self._run(remote.stop, self.build.id)
        deadline = time.monotonic() + STOP_SECONDS
        with suppress(LilaError):
            while any(member.tasks for member in self.roster.members.values()) and time.monotonic() < deadline:
                for _ in self._step():
                    pass


@contextmanager
def connect(
    options: RunOptions, shard_clips: int, notify: Callable[[str], None], await_first: bool = True
) -> Iterator[Cluster]:
    """Connect to the scheduler, or start processes on this machine that share its cores.

    Threads and processes started here never receive Ctrl-C and SIGTERM, which are sent to all of them: this process
    ends them. A signal that arrives meanwhile reaches it afterwards.
    """
    workers = options.workers or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // workers))
    with ExitStack() as stack:
        if options.scheduler:
            _require_scheduler(options.scheduler)
        for name in ("distributed", "distributed.client", "tornado", "asyncio"):  # losses become one sentence
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # else a busy machine on which a process takes longer to be replaced has no worker any more
        stack.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"}))
        resource_tracker.ensure_running()  # starting it would reset the mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            target: Any = options.scheduler
            if not target:
                local = LocalCluster(
                    n_workers=workers, threads_per_worker=tasks_at_once(shard_clips), processes=True, memory_limit=0,
                    dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL, env={"OMP_NUM_THREADS": threads},
                )  # fmt: skip
                target = stack.enter_context(local)
            client = Client(target, timeout=CONNECT_SECONDS, set_as_default=False)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stack.callback(client.close, timeout=CLOSE_SECONDS)
        if not options.scheduler:
            notify(f"Dask's page on these workers: {client.dashboard_link}")
        cluster = Cluster(client, options, shard_clips, notify, await_first)
        stack.callback(cluster.close)
        yield cluster


def _require_scheduler(address: str) -> None:
    """Raise LilaError if no scheduler answers. A `Client` that fails to connect would hang for a while."""

    async def kind() -> str:
        server = rpc(address, timeout=CONNECT_SECONDS, connection_args=Security().get_connection_args("client"))
        async with asyncio.timeout(CONNECT_SECONDS), server:
            return str((await server.identity())["type"])

    try:
        found = asyncio.run(kind())
        problem = None if found == "Scheduler" else f"a {found.lower()}"
    except Exception as error:
        reason = first_line(error) or f"no answer within {CONNECT_SECONDS} s"
        problem = f"none that answers ({reason})"
    if problem is not None:
        tls = "; certificates for tls:// belong into Dask's configuration (distributed.comm.tls)"
        raise LilaError(
            f"expected a Dask scheduler at {address}, found {problem}; give its address as --scheduler "
            f"tcp://HOST:8786, or --scheduler-file{tls * ('tls' in address.lower())}"
        )


def build_remote(assignment: Assignment) -> Outcome:
    """Build a task; runs on a worker, in one of its threads."""
    worker = get_worker()
    return remote.build_task(assignment, lambda: worker.status.name not in ("running", "paused"))
