"""Several workers write the same bytes as one; a worker that dies loses its task and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import LocalCluster

import stores
from lila_cues.config import RunOptions
from lila_cues.pipeline import build, cluster
from lila_cues.pipeline.task import Worker
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
    return stores.create(path, stores.StoreSpec(CONFIG.geometry(8, 24), 1), CLIPS, {}, {})


def test_two_workers_make_the_bytes_of_one(options: RunOptions, tmp_path: Path) -> None:
    serial = make_store(tmp_path / "serial.zarr")
    with Worker(CONFIG, options, threads=2) as worker:
        list(build.build_local(serial, worker, serial.pending_tasks()))
    parallel = make_store(tmp_path / "parallel.zarr")
    reports = list(cluster.build_distributed(parallel, CONFIG, replace(options, workers=2), parallel.pending_tasks()))
    assert parallel.statuses().tolist() == [1, 1, 1, 1, 1, 2]
    assert cue_bytes(parallel) == cue_bytes(serial)
    assert sum(report.complete for report in reports) == 5
    assert "5.mp4: expected a video" in next(report.failed for report in reports if report.failed)["5.mp4"]
    assert (
        list(cluster.build_distributed(parallel, CONFIG, replace(options, workers=1), parallel.pending_tasks())) == []
    )


def test_a_scheduler_that_does_not_answer_is_named(
    options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    store = make_store(tmp_path / "s.zarr")
    with pytest.raises(LilaError, match=r"expected a Dask scheduler at tcp://127\.0\.0\.1:9, found none that answers"):
        list(cluster.build_distributed(store, CONFIG, replace(options, scheduler="tcp://127.0.0.1:9"), [0]))


@pytest.fixture
def running() -> Iterator[LocalCluster]:
    """A cluster of two processes that is there before the build, and stays."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as local:
        yield local


@pytest.mark.slow
def test_a_killed_worker_costs_its_task_only(options: RunOptions, tmp_path: Path, running: LocalCluster) -> None:
    serial = make_store(tmp_path / "serial.zarr")
    with Worker(CONFIG, options, threads=2) as worker:
        list(build.build_local(serial, worker, serial.pending_tasks()))
    store = make_store(tmp_path / "s.zarr")
    victims: list[int] = []

    def kill_the_first_holder() -> None:
        deadline = time.monotonic() + 120
        while not victims and time.monotonic() < deadline:
            active_workers = [store.locked_by(task) for task in range(store.n_tasks)]
            victims.extend(int(holder.split(":")[1]) for holder in active_workers if holder)
            time.sleep(0.01)
        os.kill(victims[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first_holder)
    killer.start()
    list(
        cluster.build_distributed(
            store, CONFIG, replace(options, scheduler=running.scheduler_address), store.pending_tasks()
        )
    )
    killer.join()
    assert victims, "a worker was killed while it held a task"
    assert store.statuses().tolist() == [1, 1, 1, 1, 1, 2]
    assert cue_bytes(store) == cue_bytes(serial)
    assert not list(Path(store.path, "scratch").glob("*")), "nothing half done is left"


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_named_and_the_others_are_done(
    options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    store = make_store(tmp_path / "s.zarr")
    monkeypatch.setattr(cluster, "build_remote", die_at_task_2)
    with pytest.raises(LilaError, match=r"found 1 whose workers died repeatedly \(task 2 first\)"):
        list(cluster.build_distributed(store, CONFIG, replace(options, workers=2), store.pending_tasks()))
    assert store.statuses().tolist() == [1, 1, 0, 1, 1, 2]


def die_at_task_2(path: str, task: int, only_failed: bool) -> object:
    if task == 2:
        time.sleep(3)
        os._exit(9)
    from lila_cues.pipeline.cluster import build_remote

    return build_remote(path, task, only_failed)


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
