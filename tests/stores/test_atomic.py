"""Atomic file writes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from stores import atomic
from stores.atomic import append_line, atomic_path, atomic_write, read_lines
from stores.errors import StoreError
from tests.full_disk import full_disk
from tests.stores.worlds import put_in_place


def test_the_file_is_renamed_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("some")
        assert not path.exists()
        temporary.write_text("all")
    assert path.read_text() == "all"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_and_text_are_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append(f"sync {os.readlink(f'/proc/self/fd/{fd}')}"))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("rename"), replace(a, b)))
    atomic_write("ü", tmp_path / "a.txt")
    (file, rename, folder) = steps
    assert file.startswith(f"sync {tmp_path}/.a.") and file.endswith(".txt")  # noqa: PT018
    assert (rename, folder) == ("rename", f"sync {tmp_path}")
    assert (tmp_path / "a.txt").read_bytes() == "ü".encode()
    with atomic_path(tmp_path / "b.npz", sync=False) as temporary:
        temporary.write_bytes(b"b")
    assert steps[3:] == ["rename"]


@pytest.mark.parametrize("name", ["a" * 251 + ".txt", "ü" * 125 + ".json"])
def test_a_name_of_the_greatest_length_has_a_temporary_one(tmp_path: Path, name: str) -> None:
    atomic_write(b"all", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as one, atomic_path(path) as two:
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_sentence_with_the_path(tmp_path: Path) -> None:
    expected = rf"no space left in {tmp_path} while writing a\.bin; free some space"
    with pytest.raises(StoreError, match=expected), full_disk():
        atomic_write(b"x" * 5000, tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_a_missing_permission_is_a_sentence_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(target))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match=rf"permission denied while writing a\.txt in {tmp_path}/a\.txt; make it"):
        atomic_write("text", tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_synced_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(atomic, "_unsynced", set())
    for name in ("a", "b"):
        atomic_write(name, tmp_path / name)
        assert (tmp_path / name).read_text() == name
    (said,) = caplog.messages
    assert f"does not write the entries of {tmp_path} to the disk when it is asked (invalid argument)" in said


@pytest.mark.parametrize(
    ("number", "free", "expected"),
    [
        (errno.ENOSPC, 9, r"no space left in .* while writing a; free some space"),
        (errno.ENOSPC, 0, r"no room for another file \(no inode\) left in .* while writing a; delete some files"),
        (errno.EDQUOT, 9, r"the quota of bytes or files is used up in .* while writing a; free some space"),
    ],
)
def test_what_is_used_up_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, free: int, expected: str
) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=10, f_favail=free))
    with pytest.raises(StoreError, match=expected):
        atomic_write("text", tmp_path / "a")


@pytest.mark.parametrize("kind", ["folder", "FIFO", "socket"])
def test_what_is_no_journal_blocks_nothing(tmp_path: Path, kind: str) -> None:
    put_in_place(kind, tmp_path / "log.jsonl")
    with pytest.raises(StoreError, match=r"found something else; move it away|while writing log\.jsonl"):
        append_line(tmp_path / "log.jsonl", {})
    with pytest.raises(StoreError, match=r"found something else; move it away|while reading"):
        read_lines(tmp_path / "log.jsonl", "step")


def test_a_journal_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"found a symbolic link at .*log\.jsonl; delete it"):
        append_line(tmp_path / "log.jsonl", {})
    assert not (tmp_path / "elsewhere").exists()
