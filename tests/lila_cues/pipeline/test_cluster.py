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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from distributed import Client, LocalCluster

import stores
from lila_cues.config import BuildConfig, RunOptions
from lila_cues.pipeline import build, cluster, remote, task
from lila_cues.pipeline.task import TaskReport, Worker
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
    options: RunOptions, tmp_path: Path, serial: dict[str, bytes], running: LocalCluster, name: str
) -> None:
    """No clip fails by its fault, and the others build the same store."""
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
