"""Several workers write the same bytes as one; a worker that dies loses its task and nothing else."""

from __future__ import annotations

import errno
import os
import pkgutil
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import stores
from lila_cues.config import BuildConfig, RunOptions
from lila_cues.pipeline import build, cluster, remote, roster, task
from lila_cues.pipeline.task import TaskReport, Worker
from lila_cues.sampling import select_frames
from stores.errors import LilaError
from tests.lila_cues import barcodes, small_networks
from tests.lila_cues.barcodes import Clip
from tests.lila_cues.pipeline.test_task import cue_bytes

CLIPS = [f"{index}.mp4" for index in range(6)]
CONFIG = small_networks.CONFIG.replace(
    encoder="tiny",
    depth="tiny",
    flow="dis",
    encoder_weights="random",
    depth_weights="random",
    shard_clips=1,
)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> RunOptions:
    """Of six clips, the last of which is no video; the networks can be loaded by name in any process."""
    root = tmp_path_factory.mktemp("videos")
    for name in CLIPS:
        barcodes.write(root / name, Clip(frames=20, size=(64, 80)))
    (root / CLIPS[-1]).write_text("text")
    return small_networks.run_options(root)


def make_store(path: Path) -> stores.CueStore:
    return stores.create(path, stores.StoreSpec(CONFIG.geometry(8, 96), 1), CLIPS, {}, {})


@contextmanager
def workers_on(
    address: str | None, path: Path, options: RunOptions, notes: list[str], config: BuildConfig = CONFIG
) -> Iterator[tuple[cluster.Cluster, stores.CueStore]]:
    """Connect to a scheduler, or start two processes; check the workers and open the store."""
    options = replace(options, scheduler=address, workers=None if address else 2, store=path)
    with (
        cluster.connect(options, config.shard_clips, notes.append) as workers,
        remote.describe(config, options, CLIPS) as described,
    ):
        facts = workers.check(described, stores.open(path) if path.exists() else None)
        yield workers, build.open_store(path, config, options, facts, CLIPS)


def build_on(address: str | None, path: Path, options: RunOptions, notes: list[str]) -> list[TaskReport]:
    """Build a store of one clip per task."""
    with workers_on(address, path, options, notes) as (workers, store):
        return list(workers.reports(store, store.pending_tasks()))


@pytest.fixture(scope="module")
def serial(options: RunOptions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the store that one process builds."""
    store = make_store(tmp_path_factory.mktemp("serial") / "s.zarr")
    with Worker(CONFIG, options, threads=2) as worker:
        list(build.build_local(store, worker, store.pending_tasks()))
    return cue_bytes(store)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalCluster]:
    """A cluster of two processes that is there before the builds, and stays."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0) as local:
        yield local


@pytest.mark.parametrize("local", [True, False])
def test_two_workers_make_the_bytes_of_one(
    options: RunOptions, tmp_path: Path, serial: dict[str, bytes], running: LocalCluster, local: bool
) -> None:
    notes: list[str] = []
    reports = build_on(None if local else running.scheduler_address, tmp_path / "s.zarr", options, notes)
    store = stores.open(tmp_path / "s.zarr")
    assert store.statuses().tolist() == [1, 1, 1, 1, 1, 2]
    assert cue_bytes(store) == serial
    assert sum(report.complete for report in reports) == 5
    assert {report.host for report in reports} == {socket.gethostname()}
    assert os.getpid() not in {report.process for report in reports}, "each report names the process that made it"
    assert "5.mp4: expected a video" in next(report.failed for report in reports if report.failed)["5.mp4"]
    page = ["http://127.0.0.1:" in note for note in notes if note.startswith("Dask's page on these workers")]
    assert page == [True] * local


ATTACKS = {
    "another version of the package": (
        "importlib.metadata.distributions",
        "found lila-pixels 9.9; install that version",
    ),
    "no such package": ("importlib.metadata.distributions", "as here, found none; install that version there"),
    "other weights": ("lila_cues.pipeline.task.load_networks", r"found other weights \(encoder\)"),
    "another decoder": ("lila_cues.pipeline.setup.decoder_version", "the decoder of the store, found av 0.1"),
    "other data": ("lila_cues.pipeline.remote.open_dataset", "expected clip 0.mp4 in .*, found another"),
    "no data": ("lila_cues.pipeline.remote.open_dataset", "found no folder at /nowhere"),
    "another store at the same path": (
        "lila_cues.pipeline.remote._require_token",
        "that the client sees, found another",
    ),
    "a network that fails": ("lila_cues.pipeline.task.Worker.predict", "RuntimeError: too old a driver"),
    "a failing file system": ("lila_cues.pipeline.task.load_clip", "the file system fails .*input/output error"),
    "a folder of data that disappears": ("lila_cues.datasets.Videos.read", "the file system fails .*no such file"),
}


def attack(name: str) -> None:
    """Runs on one worker: put a fault in the place of a function of its process."""
    target, _ = ATTACKS[name]
    original = pkgutil.resolve_name(target.replace(".Worker.", ":Worker.").replace(".Videos.", ":Videos."))

    def faulty(*arguments: Any, **options: Any) -> Any:
        if name == "another version of the package":
            return iter([SimpleNamespace(version="9.9")])
        if name == "no such package":
            return iter([])
        if name == "other weights":
            return original(arguments[0].replace(encoder_weights="random:7"), *arguments[1:])
        if name == "another decoder":
            return "av 0.1"
        if name == "other data":
            return SimpleNamespace(path=lambda clip_id: Path(__file__))
        if name == "no data":
            return original("videos", Path("/nowhere"))
        if name == "another store at the same path":
            return original(arguments[0].with_name("absent"))
        if name == "a failing file system":
            raise OSError(errno.EIO, "Input/output error", "clip")
        if name == "a folder of data that disappears":
            arguments[0].root = Path("/nowhere")
            return original(*arguments, **options)
        raise RuntimeError("too old a driver")

    remote.VISIBLE_SECONDS, task.RETRY_SECONDS = 0.1, ()
    patch(target, faulty).start()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_worker_that_is_not_fit_is_left_out_and_named(
    options: RunOptions,
    tmp_path: Path,
    serial: dict[str, bytes],
    running: LocalCluster,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No clip fails by its fault, and the others build the same store."""
    monkeypatch.setattr(roster, "TRIES", 1)  # the other may have done the few tasks before three have failed
    notes: list[str] = []
    with Client(running, set_as_default=False) as client:
        attacked = max(client.nthreads())  # of two kinds, the other is the first
        (pid,) = client.run(os.getpid, workers=[attacked]).values()
        client.run(attack, name, workers=[attacked])
        try:
            build_on(running.scheduler_address, tmp_path / "s.zarr", options, notes)
        finally:
            client.run(patch.stopall)
        held = client.run(lambda: len(remote._HELD))
    store = stores.open(tmp_path / "s.zarr")
    assert store.statuses().tolist() == [1, 1, 1, 1, 1, 2]
    assert cue_bytes(store) == serial
    left_out = [note for note in notes if "is left out" in note]
    assert len(left_out) == 1, notes
    assert re.search(rf"worker \S+:{pid} is left out: .*{ATTACKS[name][1]}", left_out[0])
    assert set(held.values()) == {0}, "the networks go with the build"


def test_two_clients_on_one_cluster_build_each_their_own_store(
    options: RunOptions, tmp_path: Path, serial: dict[str, bytes], running: LocalCluster
) -> None:
    seeds, address = {"a.zarr": 0, "b.zarr": 9}, running.scheduler_address

    def build_one(name: str) -> None:
        with workers_on(address, tmp_path / name, options, [], CONFIG.replace(seed=seeds[name])) as (workers, store):
            list(workers.reports(store, store.pending_tasks()))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(build_one, seeds))
    for name, seed in seeds.items():
        store = stores.open(tmp_path / name)
        assert store.statuses().tolist() == [1, 1, 1, 1, 1, 2]
        assert (cue_bytes(store) == serial) == (seed == 0)
        for clip in store.complete_clips().tolist():
            expected = select_frames(seed, store.clip_id(clip), 20, CONFIG.frames, CONFIG.pairs, CONFIG.max_gap)
            assert np.array_equal(store.read("frame_index", clip), expected.frame_index)


def test_a_worker_refuses_a_task_of_a_build_that_it_was_not_checked_for(running: LocalCluster) -> None:
    with Client(running, set_as_default=False) as client:
        assignment = remote.Assignment("another build", "/s.zarr", "0", 0, False)
        assert client.submit(cluster.build_remote, assignment).result() == remote.Outcome(unknown=True)


NO_SCHEDULER = {
    "tcp://127.0.0.1:9": "found none that answers",
    "tls://127.0.0.1:9": r"found none that answers \(TLS .*certificates for tls:// belong into Dask's configuration",
    "nonsense": "found none that answers",
    "a worker": "found a worker; give its address as --scheduler tcp://HOST:8786",
}


@pytest.mark.parametrize("address", NO_SCHEDULER)
def test_what_is_no_scheduler_is_named_within_seconds(
    options: RunOptions, running: LocalCluster, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2)
    expected, start = NO_SCHEDULER[address], time.monotonic()
    address = address if address != "a worker" else next(iter(running.workers.values())).worker_address
    with (
        pytest.raises(LilaError, match=f"expected a Dask scheduler at {address}, {expected}"),
        cluster.connect(replace(options, scheduler=address), 1, pytest.fail),
    ):
        pass
    assert time.monotonic() - start < 10


@pytest.fixture
def threads() -> Iterator[LocalCluster]:
    """A cluster in this process, without a worker at first."""
    place = {"protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=False, silence_logs=50, **place) as local:
        yield local


def test_a_cluster_may_have_no_worker_at_first_and_more_later(
    options: RunOptions, tmp_path: Path, serial: dict[str, bytes], threads: LocalCluster
) -> None:
    notes: list[str] = []

    def notify(note: str) -> None:
        notes.append(note)
        threads.scale(1)

    options = replace(options, scheduler=threads.scheduler_address, store=tmp_path / "s.zarr")
    with (
        cluster.connect(options, 1, notify) as workers,
        remote.describe(CONFIG, options, CLIPS) as described,
    ):
        store = build.open_store(tmp_path / "s.zarr", CONFIG, options, workers.check(described, None), CLIPS)
        reports = workers.reports(store, store.pending_tasks())
        next(reports)
        threads.scale(2)
        threads.wait_for_workers(2)
        time.sleep(1.1)  # after which the list of workers is asked for again
        list(reports)
        members = [*workers.roster.members.values()]
    assert notes[0].startswith(f"no worker at the scheduler {threads.scheduler_address} yet")
    assert len(members) == 2
    assert cue_bytes(store) == serial


def test_a_check_without_a_build_does_not_wait_for_workers(options: RunOptions, threads: LocalCluster) -> None:
    options = replace(options, scheduler=threads.scheduler_address)
    with (
        pytest.raises(LilaError, match=r"expected workers at the scheduler tcp://.*, found none; start `dask worker`"),
        cluster.connect(options, 1, pytest.fail, await_first=False) as workers,
    ):
        workers.device("auto")


def test_a_scheduler_that_ends_is_one_sentence(options: RunOptions, tmp_path: Path, threads: LocalCluster) -> None:
    threads.scale(1)
    expected = r"an answer of the scheduler tcp://.*, found that the connection is lost .*run the same command again"
    with workers_on(threads.scheduler_address, tmp_path / "s.zarr", options, []) as (workers, store):
        reports = workers.reports(store, store.pending_tasks())
        next(reports)
        threads.close()
        with pytest.raises(LilaError, match=expected):
            list(reports)
    assert len(stores.open(tmp_path / "s.zarr").complete_clips()) > 0
    assert not list(Path(store.path, "scratch").glob(".check*")), "nothing is left of the check"


@pytest.mark.slow
def test_a_killed_worker_costs_its_task_only(
    options: RunOptions, tmp_path: Path, serial: dict[str, bytes], running: LocalCluster
) -> None:
    victims: list[int] = []
    with workers_on(running.scheduler_address, tmp_path / "s.zarr", options, []) as (workers, store):

        def kill_the_first_holder() -> None:
            deadline = time.monotonic() + 120
            while not victims and time.monotonic() < deadline:
                active_workers = [store.locked_by(task) for task in range(store.n_tasks)]
                victims.extend(int(holder.split(":")[1]) for holder in active_workers if holder)
                time.sleep(0.01)
            os.kill(victims[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_the_first_holder)
        killer.start()
        list(workers.reports(store, store.pending_tasks()))
        killer.join()
    assert victims, "a worker was killed while it held a task"
    assert store.statuses().tolist() == [1, 1, 1, 1, 1, 2]
    assert cue_bytes(store) == serial
    assert not list(Path(store.path, "scratch").glob("*")), "nothing half done is left"


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_named_and_the_others_are_done(options: RunOptions, tmp_path: Path) -> None:
    expected = r"found 1 that failed 3 times \(task 2: its worker \S+ ended; look for a lack"
    with (
        dask.config.set({"distributed.worker.preload": ["tests.lila_cues.pipeline.deadly"]}),
        pytest.raises(LilaError, match=expected),
    ):
        build_on(None, tmp_path / "s.zarr", options, [])
    assert stores.open(tmp_path / "s.zarr").statuses().tolist() == [1, 1, 0, 1, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_signal_to_all_processes_publishes_the_clips_that_are_done(
    tmp_path: Path, sent: signal.Signals, status: int, workers: tuple[str, ...]
) -> None:
    """A terminal sends Ctrl-C, and SLURM and systemd send SIGTERM, to every process of the command."""
    root, store = tmp_path / "videos", tmp_path / "s.zarr"
    root.mkdir()
    barcodes.write(root / "0.mp4", Clip(frames=20, size=(64, 80)))
    for index in range(1, 60):
        (root / f"{index}.mp4").symlink_to("0.mp4")
    command = [sys.executable, "-c", "from lila_cues.cli import main; main()", "build", "--dataset", "videos"]
    command += ["--root", str(root), "--store", str(store), "--flow", "dis", *workers]
    command += ["--encoder-weights", "random", "--depth-weights", "random"]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=restore_interrupts,
    ) as builder:
        while builder.poll() is None and not any(file.stat().st_size for file in store.glob("scratch/*/rgb")):
            time.sleep(0.01)
        os.killpg(builder.pid, sent)
        _, stderr = builder.communicate(timeout=120)
    assert builder.returncode == status
    assert "Traceback" not in stderr
    assert stderr.count("interrupted; completed work is kept") == 1
    assert 0 < len(stores.open(store).complete_clips()) < 60
    assert not list(store.glob("scratch/*"))


def restore_interrupts() -> None:
    """A process in the background ignores them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
