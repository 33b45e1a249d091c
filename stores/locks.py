"""Which task is being worked on, and by whom: one file for the whole store, a record lock per task.

The kernel drops a process's locks when it ends, however it ends, so no claim outlives its worker. Where the file system
has no locks, claiming says so. Locks of one process do not exclude its own threads; `_HELD` does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stores.errors import StoreError
from stores.ledger import signature

_SLOT = 64  # bytes per task, holding the name of its worker
_HELD: dict[Path, tuple[int, int, set[int]]] = {}  # claims file → (process, its one descriptor, tasks held)
_GUARD = threading.Lock()


@contextmanager
def hold(path: Path, task: int) -> Iterator[bool]:
    """Hold the task while inside; False if another worker has it. `path` is the store's claims file."""
    path = path.resolve()
    taken = _take(path, task)
    try:
        yield taken
    finally:
        if taken:
            _release(path, task)


def holder(path: Path, task: int) -> str | None:
    """`host:pid` of the living worker on a task."""
    with _GUARD:
        fd, held = _descriptor(path.resolve())
        if task in held:
            return signature()
        if not _locked_elsewhere(fd, task):
            return None
        return os.pread(fd, _SLOT, task * _SLOT).rstrip(b"\0 ").decode(errors="replace") or "unknown"


def _take(path: Path, task: int) -> bool:
    with _GUARD:
        fd, held = _descriptor(path)
        if task in held:
            return False
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _SLOT, task * _SLOT)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise _no_locks(path, error) from error
        os.pwrite(fd, signature().encode()[:_SLOT].ljust(_SLOT), task * _SLOT)
        held.add(task)
        return True


def _locked_elsewhere(fd: int, task: int) -> bool:
    """Ask without taking the lock, which would keep a builder off for a moment (fcntl(2), F_GETLK)."""
    start, length, whence = task * _SLOT, _SLOT, os.SEEK_SET
    if sys.platform == "darwin":
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("qqihh", start, length, 0, fcntl.F_WRLCK, whence))
        return int(struct.unpack("qqihh", answer)[3]) != fcntl.F_UNLCK
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, whence, start, length, 0))
    return int(struct.unpack("hhqqi0q", answer)[0]) != fcntl.F_UNLCK


def _release(path: Path, task: int) -> None:
    with _GUARD:
        fd, held = _descriptor(path)
        if task in held:
            held.discard(task)
            fcntl.lockf(fd, fcntl.LOCK_UN, _SLOT, task * _SLOT)


def _descriptor(path: Path) -> tuple[int, set[int]]:
    """The process's only descriptor of the file: closing any other would drop all its locks."""
    process, fd, held = _HELD.get(path, (0, -1, set()))
    if process == os.getpid():
        if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
            return fd, held
        os.close(fd)  # the store was deleted or moved, and another made in its place
    fd, held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), set()
    _HELD[path] = (os.getpid(), fd, held)
    return fd, held


def _no_locks(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"the file system of {path.parent} has no record locks ({error.strerror}), which keep two builders apart; "
        "build on a local disk, NFS 4 or Lustre mounted with flock, and copy the store afterwards"
    )
