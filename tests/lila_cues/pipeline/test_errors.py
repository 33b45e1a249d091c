"""A clip fails only by its own file's fault: errors of a file system that may recover end a task, and no clip."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import av
import pytest

from lila_cues.datasets import open_dataset
from lila_cues.pipeline import build, task
from lila_cues.pipeline.errors import TransientError, transient_reason
from lila_cues.pipeline.task import Worker
from stores.errors import LilaError
from tests.lila_cues.pipeline.test_task import make_store, names, worker_of


def chained(cause: BaseException) -> LilaError:
    error = LilaError("expected a video, found one cut short")
    error.__cause__ = cause
    return error


FAULTS: dict[str, tuple[BaseException, bool]] = {
    "input/output error": (OSError(errno.EIO, "Input/output error"), True),
    "stale handle": (OSError(errno.ESTALE, "Stale file handle"), True),
    "timed out": (OSError(errno.ETIMEDOUT, "Connection timed out"), True),
    "too many open files": (OSError(errno.EMFILE, "Too many open files"), True),
    "too many open files, by the decoder": (chained(av.error.OSError(errno.EMFILE, "Too many open files")), True),
    "no memory": (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
    "a mount that is gone": (OSError(errno.ENOTCONN, "Transport endpoint is not connected"), True),
    "a cause two errors down": (chained(chained(OSError(errno.EIO, "Input/output error"))), True),
    "damage, which the decoder reports as an input/output error": (chained(av.error.OSError(errno.EIO, "I/O")), False),
    "damage": (chained(av.error.InvalidDataError(1094995529, "Invalid data")), False),
    "no permission": (PermissionError(errno.EACCES, "Permission denied"), False),
    "a bug": (ValueError("odd"), False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_whose_fault_an_error_is(videos: Path, name: str) -> None:
    error, transient = FAULTS[name]
    assert (transient_reason(error, open_dataset("videos", videos), "0.mp4") is not None) == transient


def test_a_folder_that_is_gone_or_empty_is_no_fault_of_a_clip(videos: Path, tmp_path: Path) -> None:
    dataset, gone = open_dataset("videos", videos), LilaError("found nothing")
    assert transient_reason(gone, dataset, "absent.mp4") is None, "one file may be deleted"
    assert "no such file" in (transient_reason(gone, dataset, "0.mp4", tmp_path / "depth") or "")
    dataset.root = tmp_path
    assert transient_reason(gone, dataset, "0.mp4") == f"{tmp_path} is empty"
    dataset.root = tmp_path / "absent"
    assert "no such file" in (transient_reason(gone, dataset, "0.mp4") or "")


def test_a_disk_that_fails_is_found_where_the_decoder_reports_a_short_file(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EIO, "Input/output error", "0.mp4")

    monkeypatch.setattr(Path, "open", fail)
    found = transient_reason(LilaError("found one cut short"), open_dataset("videos", videos), "0.mp4")
    assert found == "0.mp4: input/output error"


def test_a_clip_is_read_again_when_the_file_system_recovers(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_clip, calls = Worker.load_clip, list[str]()

    def fail_at_first(worker: Worker, clip_id: str) -> Any:
        calls.append(clip_id)
        if calls.count(clip_id) < 3 and clip_id == "0.mp4":
            raise OSError(errno.ESTALE, "Stale file handle", clip_id)
        return load_clip(worker, clip_id)

    monkeypatch.setattr(Worker, "load_clip", fail_at_first)
    monkeypatch.setattr(task, "RETRY_SECONDS", (0.0, 0.0))
    store = make_store(tmp_path / "s.zarr", names())
    with worker_of(videos) as worker:
        list(build.build_local(store, worker, range(store.n_tasks)))
    assert store.statuses().tolist() == [1, 1, 1, 2, 1, 1, 1]
    assert calls.count("0.mp4") == 3


def test_a_clip_that_a_disk_cannot_read_ends_its_task_and_no_other(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_clip = Worker.load_clip

    def fail(worker: Worker, clip_id: str) -> Any:
        if clip_id == "4.mp4":
            raise OSError(errno.EIO, "Input/output error", clip_id)
        return load_clip(worker, clip_id)

    monkeypatch.setattr(Worker, "load_clip", fail)
    monkeypatch.setattr(task, "RETRY_SECONDS", ())
    store = make_store(tmp_path / "s.zarr", names())
    with (
        worker_of(videos) as worker,
        pytest.raises(LilaError, match=r"to read 4\.mp4 .* \(4\.mp4: input/output error\)"),
    ):
        list(build.build_local(store, worker, range(store.n_tasks)))
    assert store.statuses().tolist() == [1, 1, 1, 2, 0, 1, 1]


def test_a_data_folder_that_disappears_fails_no_clip(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_clip, root = Worker.load_clip, tmp_path / "videos"
    shutil.copytree(videos, root)

    def disappear(worker: Worker, clip_id: str) -> Any:
        if clip_id == "2.mp4" and root.exists():
            root.rename(tmp_path / "away")
        return load_clip(worker, clip_id)

    store = make_store(tmp_path / "s.zarr", names(), shard_clips=1)
    monkeypatch.setattr(task, "RETRY_SECONDS", ())
    monkeypatch.setattr(Worker, "load_clip", disappear)
    with worker_of(root) as worker, pytest.raises(TransientError, match=r"the file system fails \(.*no such file"):
        list(build.build_local(store, worker, range(store.n_tasks)))
    assert store.statuses().tolist() == [1, 1, 0, 0, 0, 0, 0]
    monkeypatch.setattr(Worker, "load_clip", load_clip)
    (tmp_path / "away").rename(root)
    with worker_of(root) as worker:
        list(build.build_local(store, worker, store.pending_tasks()))
    assert store.statuses().tolist() == [1, 1, 1, 2, 1, 1, 1]


def test_a_failing_file_system_of_the_store_ends_the_task(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "claims")

    store = make_store(tmp_path / "s.zarr", names(2))
    monkeypatch.setattr("stores.store.locks.lock", fail)
    with (
        worker_of(videos) as worker,
        pytest.raises(LilaError, match=r"to write a task, .* \(claims: stale file handle\)"),
    ):
        list(build.build_local(store, worker, [0]))
    assert worker.error is None
