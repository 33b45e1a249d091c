"""Many workers: processes of this machine, or a running Dask cluster. The only module that imports `distributed`.

The client keeps the queue of tasks and gives each worker a few of them, by its address; the scheduler sees a store's
path and task numbers. What a task is, and that it is done, is between a worker and the store: a task that is given
twice is locked once. Every worker is checked before its first task; one that is not fit is left out and named.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, LocalCluster, Security, get_worker, rpc

from lila_cues.config import BuildConfig, RunOptions, spread
from lila_cues.datasets import open_dataset
from lila_cues.devices import usable_cores
from lila_cues.pipeline import remote
from lila_cues.pipeline.build import SIGNAL_SECONDS, TRIES, TaskQueue
from lila_cues.pipeline.remote import Assignment, Build, Outcome
from lila_cues.pipeline.setup import PACKAGE, NetworkFacts
from lila_cues.pipeline.task import TaskReport, tasks_at_once
from stores.atomic import explain_os_errors
from stores.errors import LilaError
from stores.ledger import writer_id
from stores.metadata import SCRATCH
from stores.store import CueStore

CONNECT_SECONDS = 10
ANSWER_SECONDS = 20
"""Within which a scheduler that is there answers."""
CHECK_SECONDS = 60
"""Waited for checks of other workers when one is done, before the first task."""
PAUSED_SECONDS = 20
"""After which the tasks of a paused worker are given to others."""
HELD_SECONDS = 60
"""Waited at the end for a task whose worker the scheduler has lost, while that still holds its lock."""
STOP_SECONDS = 300
SAMPLES = 5
"""Clips whose files each worker must see."""
INTRODUCE, DEVICE, CHECK, TASK = "introduce", "device", "check", "task"


@dataclass
class Member:
    """A worker process, as the client sees it."""

    address: str
    host: str
    identity: str  # host, and the name that a new process in its place also has
    threads: int
    place: int  # among the workers of its host
    nanny: bool
    label: str  # host:pid, when it has answered
    answers: dict[str, Any] = field(default_factory=dict)  # by question
    asked: str | None = None  # the question that it has not answered yet
    reason: str | None = None  # why it is left out
    tasks: dict[str, int] = field(default_factory=dict)  # in its hands, by the futures' keys, in order
    alone: bool = False  # with a task that has ended two workers
    paused: float | None = None  # since when

    @property
    def fit(self) -> bool:
        return CHECK in self.answers and self.reason is None


class Cluster:
    """The workers of one build; `notify` receives what the user should know."""

    def __init__(self, client: Client, options: RunOptions, shard_clips: int, notify: Callable[[str], None]) -> None:
        self.client, self.options, self.notify = client, options, notify
        self.place = f"the scheduler {options.scheduler}" if options.scheduler else "this machine"
        self.members: dict[str, Member] = {}
        self.build: Build | None = None
        self._slots = tasks_at_once(shard_clips)  # tasks that one process holds at most
        self._questions: dict[str, Callable[[Member], tuple[Any, ...]]] = {INTRODUCE: lambda member: (_introduction(),)}
        self._expected: tuple[dict[str, Any], str | None] | None = None  # hashes of weights, and decoder
        self._events: SimpleQueue[Future] = SimpleQueue()
        self._futures: dict[str, tuple[Future, Member, str]] = {}  # by key, with the question or TASK
        self._failures: Counter[str] = Counter()  # since the last success, by address and by identity
        self._queue: TaskQueue | None = None
        self._scheduler, self._refreshed, self._waiting = "", 0.0, False
        self._labels: set[str] = set()  # of all members that there have been

    def device(self, name: str) -> str:
        """Return the device of most use that `--device` NAME means on the workers: cuda where one of them has a GPU."""
        self._questions[DEVICE] = lambda member: (remote.choose_device, name)
        found = [member.answers[DEVICE] for member in self._survey(DEVICE)]
        return next((device for device in found if device.startswith("cuda")), found[0])

    def check(self, build: Build, store: CueStore | None) -> NetworkFacts:
        """Check the workers that are there, and each that comes later; return what the networks of most of them are.

        `store`, where it exists, says which networks and which decoder are right. LilaError if no worker is fit.
        """
        self.build = build
        if store is not None:
            self._expected = store.fingerprint.get("weights", {}), store.provenance.get("decoder")

        def question(member: Member) -> tuple[Any, ...]:
            build.token.touch()  # others remove what is a day old
            return remote.check, build, member.place, self._sharing(member)

        self._questions[CHECK] = question
        fit = self._survey(CHECK)
        if self._expected is None:
            kinds = Counter(json.dumps(self._kind(member), sort_keys=True) for member in fit)
            self._expected = json.loads(kinds.most_common(1)[0][0])
            for member in fit:
                self._compare(member)
        facts: NetworkFacts = next(member for member in fit if member.fit).answers[CHECK]
        return facts

    def reasons(self) -> dict[str, str | None]:
        """Return for each worker, by host:pid, why it is left out; None if it is fit."""
        unanswered = f"expected an answer within {CHECK_SECONDS} s, found none; see its log"
        return {
            member.label: None if member.fit else member.reason or unanswered
            for member in sorted(self.members.values(), key=lambda member: member.label)
        }

    def reports(self, store: CueStore, tasks: Iterable[int], only_failed: bool = False) -> Generator[TaskReport]:
        """Build tasks on the workers that were checked; yield a report of each when it is done.

        LilaError, after all others are done, if a task fails repeatedly; at once if no worker is left.
        """
        assert self.build is not None
        self._queue = queue = TaskQueue(store, tasks, only_failed)
        last = time.monotonic()
        path = str(Path(store.path).absolute())

        def assign(member: Member, task: int) -> None:
            given = Assignment(self.build.id, path, store.header.digest, task, only_failed)  # type: ignore[union-attr]
            key = self._submit(member, TASK, build_remote, given)
            member.tasks[key] = task

        try:
            while True:
                for outcome in self._step():
                    if outcome.report is not None:
                        last = time.monotonic()
                        yield outcome.report
                self._hand_out(queue, assign)
                if any(member.tasks for member in self.members.values()):
                    continue
                if queue.waiting():
                    self._require_some()
                    continue
                held = queue.take_back_held()
                ours = [holder for holder in held.values() if holder in self._labels]
                if not queue.waiting() and not (ours and time.monotonic() - last < HELD_SECONDS):
                    break
        except BaseException as error:
            if not isinstance(error, SchedulerLost):
                self._stop()
            raise
        queue.require_done()

    def close(self) -> None:
        """Drop the networks of the build from the workers."""
        if self.build is not None and self.client.status == "running":
            self._run(remote.release, self.build.id)

    def _hand_out(self, queue: TaskQueue, assign: Callable[[Member, int], None]) -> None:
        ready = [member for member in self.members.values() if member.fit and not member.paused and not member.alone]
        for member in ready:
            slots = min(member.threads, self._slots)
            depth = slots if self.options.workers else 2 * slots  # adaptive clusters grow where tasks wait
            while len(member.tasks) < depth and (task := queue.next()) is not None:
                assign(member, task)
            if not member.tasks and (task := queue.next_suspect()) is not None:
                assign(member, task)
                member.alone = True
        donors = {member.address: len(member.tasks) - min(member.threads, self._slots) for member in ready}
        for member in ready:
            donor = max(donors, key=lambda address: donors[address])
            if not member.tasks and donors[donor] > 0:  # nothing is left but what waits at others
                donors[donor] -= 1
                assign(member, self._take_back(self.members[donor], [*self.members[donor].tasks][-1]))

    def _survey(self, question: str) -> list[Member]:
        """Wait until all workers have answered, and not long for the last; return those that are not left out."""
        first, since = None, time.monotonic()
        while True:
            for _ in self._step():
                pass
            able = [member for member in self.members.values() if member.reason is None]
            done = [member for member in able if question in member.answers]
            if done and first is None:
                first = time.monotonic()
            if first is not None and (len(done) == len(able) or time.monotonic() - first > CHECK_SECONDS):
                return sorted(done, key=lambda member: member.address)
            if time.monotonic() - since > SIGNAL_SECONDS:
                self._require_some()

    def _step(self) -> Iterator[Outcome]:
        """Look for workers that came and went, ask those that are new, and wait a moment for answers and outcomes."""
        if time.monotonic() - self._refreshed > max(1.0, len(self.members) / 50):
            self._refresh()
        for member in self.members.values():
            question = next((name for name in self._questions if name not in member.answers), None)
            if question is not None and member.asked is None and member.reason is None:
                member.asked = question
                self._submit(member, question, *self._questions[question](member))
        with suppress(Empty):
            future = self._events.get(timeout=SIGNAL_SECONDS)
            while True:
                outcome = self._handle(future)
                if outcome is not None:
                    yield outcome
                future = self._events.get_nowait()

    def _submit(self, member: Member, kind: str, function: Callable[..., Any], *arguments: Any) -> str:
        place = {"workers": [member.address], "allow_other_workers": False}
        future = self.client.submit(function, *arguments, pure=False, **place)
        self._futures[str(future.key)] = (future, member, kind)
        future.add_done_callback(self._events.put)
        return str(future.key)

    def _handle(self, future: Future) -> Outcome | None:
        """Take an answer, or the outcome of a task."""
        key = str(future.key)
        if key not in self._futures:  # taken back
            return None
        _, member, kind = self._futures.pop(key)
        error: Exception | None = None
        if future.cancelled():  # by a connection that is lost
            member.asked = None if kind != TASK else member.asked
            if kind == TASK and self._queue is not None:
                self._queue.put_back(member.tasks.pop(key))
            return None
        try:
            result = future.result(timeout=ANSWER_SECONDS)
        except Exception as raised:
            reason = str(raised) if isinstance(raised, LilaError) else f"{type(raised).__name__}: {raised}"
            error, result = raised, Outcome(error=reason)
        if kind != TASK:
            self._answered(member, kind, result if error is None else None, result.error if error else None)
            return None
        assert self._queue is not None
        task, member.alone = member.tasks.pop(key), False
        if result.unknown:
            self._queue.put_back(task)
            member.answers.pop(CHECK, None)
            return None
        if result.error is None:
            self._queue.done(task, result.report)
            self._failures[member.address] = self._failures[member.identity] = 0
            return result
        self._queue.failed(task, f"{result.error} ({member.label})")
        self._failed(member, result.error)
        if not result.transient:
            member.answers.pop(CHECK, None)  # it loads its networks anew
        if result.lost:
            self._failures[member.identity] += 1
            self._leave_out(member, result.error)
            if member.nanny:
                with suppress(Exception):
                    self.client.restart_workers([member.address], timeout=ANSWER_SECONDS, raise_for_error=False)
        return None

    def _answered(self, member: Member, question: str, answer: Any, error: str | None) -> None:
        member.asked = None
        if error is not None:
            missing = "No module named" in error and "lila_cues" in error
            self._leave_out(member, f"expected {PACKAGE} there, found none; install it" if missing else error)
            return
        member.answers[question] = answer
        if question == INTRODUCE:
            (member.label, found), own = answer, version(PACKAGE)
            self._labels.add(member.label)
            if found != own:
                self._leave_out(
                    member, f"expected {PACKAGE} {own} as here, found {found or 'none'}; install that version there"
                )
        elif question == CHECK:
            self._compare(member)

    def _kind(self, member: Member) -> tuple[dict[str, Any], str | None]:
        assert self.build is not None
        facts: NetworkFacts = member.answers[CHECK]
        return self.build.config.fingerprint(facts.records)["weights"], facts.provenance["decoder"]

    def _compare(self, member: Member) -> None:
        """Leave out a worker with other networks, or another decoder, than the store has."""
        if self._expected is None:
            return
        (weights, decoder), (found, its_decoder) = self._expected, self._kind(member)
        others = [kind for kind, expected in weights.items() if found.get(kind) != expected]
        if others:
            self._leave_out(
                member,
                f"expected the networks of the store, found other weights ({', '.join(others)}); give this host the "
                "same weight files",
            )
        elif decoder is not None and its_decoder != decoder:
            self._leave_out(
                member, f"expected the decoder of the store, {decoder}, found {its_decoder}; install that version there"
            )

    def _leave_out(self, member: Member, reason: str) -> None:
        if member.reason is None:
            member.reason = reason
            for key in [*member.tasks]:
                self._put_back(member, key)
            self.notify(f"worker {member.label} is left out: {reason}")

    def _failed(self, member: Member, reason: str) -> None:
        """Count a failure of a worker, and leave it out after `TRIES` without a success."""
        self._failures[member.address] += 1
        if self._failures[member.address] >= TRIES:
            self._leave_out(member, f"{reason} ({TRIES} failures one after the other)")

    def _take_back(self, member: Member, key: str) -> int:
        """Cancel a task; if its worker has begun it nevertheless, the store's lock keeps others from it."""
        future, *_ = self._futures.pop(key)
        future.cancel()
        return member.tasks.pop(key)

    def _put_back(self, member: Member, key: str) -> None:
        assert self._queue is not None
        self._queue.put_back(self._take_back(member, key))

    def _refresh(self) -> None:
        """Compare the members with the scheduler's list of workers; SchedulerLost if it has gone."""
        try:
            if self.client.status != "running":
                raise OSError("the connection is closed")
            info = self.client.sync(self.client.scheduler.identity, callback_timeout=ANSWER_SECONDS)
        except Exception as error:
            raise self._lost(str(error) or type(error).__name__) from error
        self._scheduler, self._refreshed = self._scheduler or info["id"], time.monotonic()
        if info["id"] != self._scheduler:
            raise self._lost("another one is in its place")
        for address in [address for address in self.members if address not in info["workers"]]:
            self._gone(self.members.pop(address))
        for address, worker in info["workers"].items():
            if address not in self.members:
                host, name = worker["host"], worker["name"]
                taken = {member.place for member in self.members.values() if member.host == host}
                self.members[address] = member = Member(
                    address=address,
                    host=host,
                    identity=host if name == address else f"{host} {name}",
                    threads=worker["nthreads"],
                    place=next(place for place in range(len(taken) + 1) if place not in taken),
                    nanny=bool(worker["nanny"]),
                    label=f"{name} at {address}" if name != address else address,
                )
                self._waiting = False
                ended = self._failures[member.identity]
                if ended >= TRIES * (1 if name != address else self._sharing(member)):
                    self._leave_out(member, f"the {ended} processes before it ended without a result")
            self._watch(self.members[address], worker["status"])

    def _lost(self, reason: str) -> SchedulerLost:
        return SchedulerLost(
            f"expected an answer of {self.place}, found that the connection is lost ({reason}); completed tasks are "
            "kept: run the same command again when it is back"
        )

    def _gone(self, member: Member) -> None:
        """Take back the tasks of a worker that has ended: those that it had begun count as failed."""
        self._futures = {key: job for key, job in self._futures.items() if job[1] is not member or job[2] == TASK}
        self._failures[member.identity] += bool(member.tasks or member.asked)
        for index, key in enumerate([*member.tasks]):
            task = self._take_back(member, key)
            assert self._queue is not None
            if index < min(member.threads, self._slots):
                self._queue.failed(task, f"its worker {member.label} ended; look for a lack of memory")
            else:
                self._queue.put_back(task)
        if member.reason is None:
            self.notify(f"worker {member.label} has gone; its tasks are given to others")

    def _watch(self, member: Member, status: str) -> None:
        """Say that a worker is paused, and give its tasks to others after a while."""
        if status != "paused":
            member.paused = None
            return
        if member.paused is None:
            member.paused = time.monotonic()
            self.notify(
                f"worker {member.label} is paused by its memory limit; start it with more memory or fewer threads"
            )
        if time.monotonic() - member.paused > PAUSED_SECONDS:
            for key in [*member.tasks]:
                self._put_back(member, key)

    def _require_some(self) -> None:
        """Raise LilaError if all workers are left out; say that none is there."""
        out = [member for member in self.members.values() if member.reason is not None]
        if self.members and len(out) == len(self.members):
            others = f"; so are {len(out) - 1} others" if len(out) > 1 else ""
            raise LilaError(f"{out[0].reason} (worker {out[0].label}, which is left out{others})")
        if not self.members and not self._waiting:
            self._waiting = True
            self.notify(f"no worker at {self.place} yet; the build goes on when one comes")
            self._demand = self.client.submit(os.getpid, pure=False)  # an adaptive cluster starts a worker for it

    def _sharing(self, member: Member) -> int:
        return sum(other.host == member.host for other in self.members.values())

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        fit = [member.address for member in self.members.values() if CHECK in member.answers]
        with suppress(Exception):
            self.client.run(function, *arguments, workers=fit, on_error="ignore", callback_timeout=ANSWER_SECONDS)

    def _stop(self) -> None:
        """Wait until the clips that are predicted are published."""
        assert self.build is not None
        self._run(remote.stop, self.build.id)
        deadline = time.monotonic() + STOP_SECONDS
        with suppress(LilaError):
            while any(member.tasks for member in self.members.values()) and time.monotonic() < deadline:
                for _ in self._step():
                    pass


class SchedulerLost(LilaError):
    """The scheduler does not answer any more."""


@contextmanager
def connect(options: RunOptions, shard_clips: int, notify: Callable[[str], None]) -> Iterator[Cluster]:
    """Connect to the scheduler, or start processes on this machine that share its cores.

    Threads and processes started here never receive Ctrl-C and SIGTERM, which a terminal, SLURM and systemd send to all
    of them: this process ends them. A signal meanwhile reaches it afterwards.
    """
    workers = options.workers or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // workers))
    with ExitStack() as stack:
        if options.scheduler:
            _require_scheduler(options.scheduler)
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what is lost is said in one sentence
        resource_tracker.ensure_running()  # starting it would reset the mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            target = options.scheduler or stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=tasks_at_once(shard_clips),
                    processes=True,
                    memory_limit=0,  # none but the machine's
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                    env={"OMP_NUM_THREADS": threads},
                )
            )
            client = Client(target, timeout=CONNECT_SECONDS, set_as_default=False)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stack.callback(client.close, timeout=CONNECT_SECONDS)
        if not options.scheduler:
            notify(f"Dask's page on these workers: {client.dashboard_link}")
        cluster = Cluster(client, options, shard_clips, notify)
        stack.callback(cluster.close)
        yield cluster


def _require_scheduler(address: str) -> None:
    """Raise LilaError if no scheduler answers. A `Client` that fails to connect would hang for a while."""

    async def kind() -> str:
        arguments = Security().get_connection_args("client")
        async with rpc(address, timeout=CONNECT_SECONDS, connection_args=arguments) as server:
            return str((await server.identity())["type"])

    async def ask() -> str:
        return await asyncio.wait_for(kind(), CONNECT_SECONDS)

    try:
        found = asyncio.run(ask())
        problem = None if found == "Scheduler" else f"a {found.lower()}"
    except Exception as error:
        reason = "; ".join(f"{error}".split("\n")[:1]) or f"no answer within {CONNECT_SECONDS} s"
        problem = f"none that answers ({reason})"
    if problem is not None:
        tls = "; certificates for tls:// belong into Dask's configuration (distributed.comm.tls)"
        raise LilaError(
            f"expected a Dask scheduler at {address}, found {problem}; give its address as --scheduler "
            f"tcp://HOST:8786, or --scheduler-file{tls * ('tls' in address.lower())}"
        )


@contextmanager
def describe(config: BuildConfig, options: RunOptions, clips: Sequence[str]) -> Iterator[Build]:
    """Describe a build to workers; meanwhile a file lies beside the store, or in it, that they must see."""
    assert options.store is not None
    assert options.root is not None
    store, dataset = options.store.absolute(), open_dataset(config.dataset, options.root, config.decoder, config.seed)
    folder = store / SCRATCH
    while not folder.is_dir():
        folder = folder.parent
    samples = []
    for clip_id in spread(clips, SAMPLES):
        path = dataset.path(clip_id)
        samples.append((clip_id, path.stat().st_size if path.is_file() else 0))
    token = folder / f".check-{uuid.uuid4().hex}-{writer_id()}"
    root = replace(options, root=options.root.absolute())
    try:
        with explain_os_errors(folder, "writing a file that workers look for"):
            token.touch()
        yield Build(uuid.uuid4().hex, config, root, token, tuple(samples))
    finally:
        token.unlink(missing_ok=True)


def build_remote(assignment: Assignment) -> Outcome:
    """Build a task; runs on a worker, in one of its threads."""
    worker = get_worker()
    return remote.build_task(assignment, lambda: worker.status.name not in ("running", "paused"))


def _introduction() -> Callable[[], tuple[str, str | None]]:
    """Return a function that is sent as such, so that a worker without this package can run it."""

    def introduce() -> tuple[str, str | None]:
        import importlib.metadata
        import os
        import socket

        try:
            found = importlib.metadata.version("lila-pixels")
        except importlib.metadata.PackageNotFoundError:
            found = None
        return f"{socket.gethostname()}:{os.getpid()}", found

    return introduce
