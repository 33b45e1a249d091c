"""Killed builders, two builders at once, a full disk: no partial results, and no clip is computed twice."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import stores
from lila_cues.cli import app
from stores import StoreError, locks, repair, verify
from stores.writer import TaskWriter
from tests.stores import worlds


@pytest.fixture(scope="module")
def workers() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.stores.worlds"])
    return context


def build(path: Path, log: Path) -> None:
    """Build the pending tasks; append a line to `log` for each clip computed (such short writes are atomic)."""
    store = stores.open(path)
    line = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(line, b"started\n")
    for task in list(store.pending_tasks()):
        with store.lock_task(task) as writer:
            for clip in [] if writer is None else writer.pending():
                os.write(line, f"{clip}\n".encode())
                assert writer is not None
                worlds.add(store, writer, clip, worlds.cues(clip, store.spec.geometry))


def computed(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split() if line != "started"] if log.exists() else []


def shard_bytes(store: stores.CueStore) -> dict[str, bytes]:
    root = Path(store.path)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("*/c.*")}


def kill_repeatedly(folder: Path, workers: ForkServerContext, n_clips: int, kills: int, seed: int) -> None:
    """Build one store undisturbed, and one whose builder is killed repeatedly; they have to be equal."""
    random = np.random.default_rng(seed)
    undisturbed = worlds.create(folder / "undisturbed.zarr", n_clips)
    start = time.perf_counter()
    worlds.fill(undisturbed)
    clip_seconds = (time.perf_counter() - start) / n_clips
    store = worlds.create(folder / "killed.zarr", n_clips)
    tasks_left, interrupted = list(range(store.n_tasks)), 0
    for kill in range(kills):
        log, before = folder / f"log-{kill}", set(store.complete_clips().tolist())
        builder = workers.Process(target=build, args=(Path(store.path), log))
        builder.start()
        clips = random.integers(1, n_clips // kills + 1)  # by the clips begun, not by the clock of a busy machine
        while len(computed(log)) < clips and builder.is_alive():
            time.sleep(0.0005)
        time.sleep(random.uniform(0, clip_seconds))
        builder.kill()
        builder.join()
        interrupted += any((Path(store.path) / "scratch").iterdir())
        assert before.isdisjoint(computed(log)), "a complete clip was computed again"
        assert before <= set(store.complete_clips().tolist()), "a complete clip was lost"
        for task in tasks_left:
            assert list(verify.check_task(store, task, verify.Thoroughness.CHECKSUMS)) == []
        tasks_left = list(store.pending_tasks())
    assert interrupted > kills / 2, "the kills came too late to mean anything"
    worlds.fill(store)
    for each in (undisturbed, store):
        each.publish_statuses()
    assert repair.sweep(store) == 0
    assert shard_bytes(store) == shard_bytes(undisturbed)


def test_a_killed_builder_leaves_complete_clips_only(tmp_path: Path, workers: ForkServerContext) -> None:
    kill_repeatedly(tmp_path, workers, n_clips=48, kills=5, seed=1)


@pytest.mark.slow
def test_a_builder_killed_a_hundred_times(tmp_path: Path, workers: ForkServerContext) -> None:
    kill_repeatedly(tmp_path, workers, n_clips=400, kills=100, seed=2)


def stop_at(path: Path, call: int) -> None:
    """Retry the failed clips, and exit at the n-th call of fsync or rename."""
    left = [call]

    def counted(function: Callable[..., None]) -> Callable[..., None]:
        def counting(*arguments: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            function(*arguments)

        return counting

    os.replace, os.fsync = counted(os.replace), counted(os.fsync)
    worlds.fill(stores.open(path), only_failed=True)


def exit_at_steps(tmp_path: Path, workers: ForkServerContext, stride: int) -> None:
    start = worlds.create(tmp_path / "start.zarr", 4)
    worlds.fill(start, failing=[1, 2])
    before = {name: start.read(name, 3) for name in start.arrays}
    call, exit_code = 0, 9
    while exit_code == 9:
        path = tmp_path / f"{call}.zarr"
        shutil.copytree(start.path, path)
        builder = workers.Process(target=stop_at, args=(path, call))
        builder.start()
        builder.join()
        exit_code, store = builder.exitcode, stores.open(path)
        assert list(verify.check_task(store, 0)) == []
        assert store.statuses().tolist() in ([1, 2, 2, 1], [1, 1, 1, 1])
        for name, values in before.items():
            np.testing.assert_array_equal(store.read(name, 3), values)
        worlds.fill(store, only_failed=True)
        assert store.statuses().tolist() == [1, 1, 1, 1]
        assert list(verify.check_task(store, 0)) == []
        call += stride
    assert exit_code == 0
    assert call > 3 * len(start.arrays)


def test_exit_while_publishing(tmp_path: Path, workers: ForkServerContext) -> None:
    exit_at_steps(tmp_path, workers, stride=7)


@pytest.mark.slow
def test_exit_at_every_step_of_publishing(tmp_path: Path, workers: ForkServerContext) -> None:
    exit_at_steps(tmp_path, workers, stride=1)


def test_shards_are_synced_before_the_rename_and_recorded_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, steps = worlds.create(tmp_path / "cues.zarr", 4), []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append(("sync", os.readlink(f"/proc/self/fd/{fd}"))))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append(("rename", str(b))), replace(a, b)))
    worlds.fill(store)
    renames = [position for position, (step, _) in enumerate(steps) if step == "rename"]
    synced = {Path(path).name for step, path in steps[: renames[0]] if step == "sync"}
    assert synced == set(store.arrays)
    assert [Path(path).name for step, path in steps if step == "rename"][-1].endswith(".json")
    assert all(steps[at + 1][0] == "sync" for at in renames)
    step, synced_last = steps[renames[-1] - 1]
    assert (step, Path(synced_last).name) == ("sync", "record")


def test_two_builders_share_the_work(tmp_path: Path, workers: ForkServerContext) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 60)
    builders = [workers.Process(target=build, args=(Path(store.path), tmp_path / f"log-{n}")) for n in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    both = [computed(tmp_path / f"log-{n}") for n in range(2)]
    assert sorted(both[0] + both[1]) == list(range(60))
    assert (store.statuses() == stores.COMPLETE).all()
    assert [list(verify.check_task(store, task)) for task in range(store.n_tasks)] == [[]] * store.n_tasks


class Killed(BaseException):
    """The end of a simulated process."""


def publish_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retry: bool, at: int, inner_steps: int, outer_steps: int
) -> str:
    """Where locks exclude nobody, one writer publishes a task within the `at`-th rename of another; each may die."""
    store = worlds.create(tmp_path / f"{retry}-{at}-{inner_steps}-{outer_steps}.zarr", 2)
    if retry:
        worlds.fill(store, failing=[1])
    rename, writers, renames = os.replace, [], [0, 0]

    def replace(source: Path, target: Path) -> None:
        number = 1 if "inner" in str(source) else 0
        renames[number] += 1
        if renames[number] > (outer_steps, inner_steps)[number]:
            raise Killed
        rename(source, target)
        if number == 0 and renames[0] == at:
            with contextlib.suppress(StoreError, Killed):
                writers[1].publish()

    with monkeypatch.context() as patched:
        patched.setattr(locks, "lock", lambda path, task: contextlib.nullcontext(True))
        patched.setattr(os, "replace", replace)
        for number, name in enumerate(("outer", "inner")):
            patched.setattr("stores.writer.writer_id", lambda name=name: f"{name}:{os.getpid()}")
            record = store.ledger.latest(0)
            writers.append(TaskWriter(store, 0, record, stores.FAILED if retry else stores.ABSENT))
            for clip in writers[-1].pending():
                worlds.add(store, writers[-1], clip, worlds.cues(clip + 10 * (number + 1)))
        with contextlib.suppress(StoreError, Killed):
            writers[0].publish()
    for writer in writers:
        writer.discard()
    findings = list(verify.check_task(store, 0))
    statuses = store.statuses().tolist()
    assert statuses in ([1, 1], [1, 2] if retry else [0, 0])
    if not findings:
        for clip in store.complete_clips().tolist():
            images = [worlds.cues(clip + shift) for shift in (0, 10, 20)]
            (cues,) = [cues for cues in images if np.array_equal(cues.rgb, store.read("rgb", clip))]
            np.testing.assert_array_equal(cues.pair_frames, store.read("pair_frames", clip))
    else:
        assert {finding.what for finding in findings} & {"it is not the shard that was recorded"}
        with pytest.raises(StoreError, match="not the shard that was recorded"):
            [store.read(name, 0) for name in store.arrays]
    return "found" if findings else {(1, 1): "complete"}.get(tuple(statuses), "as before")


ALIVE = 1000


def test_writers_that_locks_do_not_exclude_record_only_their_own_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [publish_at_once(tmp_path, monkeypatch, False, at, ALIVE, ALIVE) for at in (1, 9, 17, 18)]
    outcomes += [publish_at_once(tmp_path, monkeypatch, True, at, ALIVE, ALIVE) for at in (1, 9, 19)]
    outcomes += [publish_at_once(tmp_path, monkeypatch, False, 5, 9, ALIVE)]
    assert set(outcomes) == {"complete", "as before"}, outcomes


@pytest.mark.slow
def test_writers_that_locks_do_not_exclude_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = Counter(
        (publish_at_once(tmp_path, monkeypatch, retry, at, inner, outer), outer < ALIVE)
        for retry in (False, True)
        for at in range(1, 21)
        for inner in (1, 8, 17, ALIVE)
        for outer in (at + 1, at + 5, ALIVE)
    )
    print(outcomes)
    assert not outcomes["found", False]
    assert outcomes["complete", False]


def hold_first_task(path: Path, ready: Path, done: Path) -> None:
    with stores.open(path).lock_task(0):
        ready.touch()
        while not done.exists():
            time.sleep(0.01)


def test_a_locked_task_names_its_holder_until_it_exits(tmp_path: Path, workers: ForkServerContext) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 8)
    holder = workers.Process(target=hold_first_task, args=(Path(store.path), tmp_path / "ready", tmp_path / "done"))
    holder.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    with store.lock_task(0) as writer:
        assert writer is None
    assert store.locked_by(0) is not None
    assert store.locked_by(0).endswith(f":{holder.pid}")
    holder.kill()
    holder.join()
    assert store.locked_by(0) is None
    assert worlds.fill(store) == 8


def test_a_lock_excludes_threads_of_the_same_process(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 4)
    with store.lock_task(0) as first, stores.open(store.path).lock_task(0) as second:
        assert first is not None
        assert second is None
        assert store.locked_by(0) is not None
        first.fail(0, "for this test")


def test_a_store_created_again_at_the_same_place_has_new_locks(tmp_path: Path) -> None:
    for _ in range(2):
        store = worlds.create(tmp_path / "cues.zarr", 4)
        assert worlds.fill(store) == 4
        Path(store.path).rename(tmp_path / f"old-{time.monotonic_ns()}.zarr")


@pytest.mark.parametrize("room", [0, 3_000, 20_000, 60_000])
def test_a_full_disk_is_reported_and_the_build_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    undisturbed, store = worlds.create(tmp_path / "undisturbed.zarr", 16), worlds.create(tmp_path / "cues.zarr", 16)
    worlds.fill(undisturbed)
    written, write = [0], os.write

    def write_until_full(fd: int, data: bytes) -> int:
        if written[0] >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written[0] += len(data)
        return write(fd, data)

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", write_until_full)
        with pytest.raises(StoreError, match=r"no space left in .*; free some space and run the same"):
            worlds.fill(store)
    done = len(store.complete_clips())
    assert [finding for task in range(4) for finding in verify.check_task(store, task)] == []
    assert list(Path(store.path, "scratch").glob("*")) == []
    assert worlds.fill(store) == 16 - done
    assert {**shard_bytes(store), "status/c.0": b""} == {**shard_bytes(undisturbed), "status/c.0": b""}


def test_a_full_disk_at_the_start_of_a_retry_leaves_no_scratch_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = worlds.create(tmp_path / "cues.zarr", 4)
    worlds.fill(store, failing=[1])
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"no space left in .* while writing clip .*; free some space"):
        worlds.fill(store, only_failed=True)
    assert list(Path(store.path, "scratch").iterdir()) == []


def test_a_full_disk_while_locking_leaves_the_task_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = worlds.create(tmp_path / "cues.zarr", 4)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="no space left"):
        worlds.fill(store)
    probe = f"import stores; print(stores.open({str(store.path)!r}).locked_by(0))"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "None"


def test_a_retry_in_which_nothing_completes_rewrites_no_shard(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 4)
    worlds.fill(store, failing=[1])
    shards = {path: path.stat().st_ino for path in Path(store.path).glob("*/c.*")}
    assert worlds.fill(store, failing=[1], only_failed=True) == 1
    assert {path: path.stat().st_ino for path in Path(store.path).glob("*/c.*")} == shards
    assert store.clip_record(1).attempts == 2
    assert list(verify.check_task(store, 0)) == []
    assert worlds.fill(store, only_failed=True) == 1
    assert store.statuses().tolist() == [1, 1, 1, 1]
    assert list(verify.check_task(store, 0)) == []


def test_a_lock_file_that_was_replaced_twice_is_opened_again(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 4)
    assert worlds.fill(store, failing=[0]) == 4
    worlds.put_in_place("FIFO", tmp_path / "cues.zarr" / "claims")
    with pytest.raises(StoreError, match="expected a file at"):
        worlds.fill(store, only_failed=True)
    (tmp_path / "cues.zarr" / "claims").unlink()
    assert worlds.fill(store, only_failed=True) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    existing = worlds.create(tmp_path / "existing.zarr", 4)
    monkeypatch.setattr("fcntl.fcntl", refuse)
    monkeypatch.setattr("fcntl.lockf", refuse)
    for path in (tmp_path / "new.zarr", tmp_path / "existing.zarr"):
        with pytest.raises(StoreError, match=r"the file system of .* has no record locks \(.*\), which keep two"):
            stores.open_or_create(path, worlds.SPEC, worlds.names(4), worlds.SETTINGS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["existing.zarr"]
    with pytest.raises(StoreError, match="no record locks"):
        worlds.fill(existing)
    result = CliRunner().invoke(app, ["status", existing.path])
    assert "4 absent" in result.stdout
    assert result.exit_code == 0


def test_status_of_a_store_that_may_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a read-only mount, or as another user."""
    store, open_file = worlds.create(tmp_path / "cues.zarr", 8), os.open
    ready, done = tmp_path / "ready", tmp_path / "done"
    holder = multiprocessing.get_context("spawn").Process(target=hold_first_task, args=(Path(store.path), ready, done))
    holder.start()
    while not ready.exists():
        time.sleep(0.01)

    def read_only(path: Path | str, flags: int, *arguments: int, **options: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return open_file(path, flags, *arguments, **options)

    with monkeypatch.context() as file_system:
        file_system.setattr(os, "open", read_only)
        result = CliRunner().invoke(app, ["status", store.path])
    done.touch()
    holder.join()
    assert result.exit_code == 0, result.exception
    assert f":{holder.pid} on 1 task" in result.stdout


def complete_one_and_raise(store: stores.CueStore) -> None:
    with store.lock_task(0) as writer:
        assert writer is not None
        worlds.add(store, writer, 0, worlds.cues(0))
        raise ZeroDivisionError


def test_an_exception_discards_the_task(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 8)
    with pytest.raises(ZeroDivisionError):
        complete_one_and_raise(store)
    assert store.statuses().tolist() == [0] * 8
    assert not list(Path(store.path).glob("rgb/c.*"))
    assert worlds.fill(store) == 8


def test_looking_up_the_holder_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 8)
    taken: list[int] = []
    monkeypatch.setattr("fcntl.lockf", lambda *arguments: taken.append(1))
    assert store.locked_by(0) is None
    assert taken == []


def test_errors_inside_the_context_are_not_translated(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 8)
    with pytest.raises(PermissionError, match=r"video\.mp4"), store.lock_task(0):
        raise PermissionError(13, "Permission denied", "video.mp4")
