"""Locks on tasks: one file per store, and in it one record lock (fcntl) per task; a folder of results is one task.

The kernel drops a process's locks when it ends for any reason, so no lock outlives its worker. A file system without
record locks is refused. They do not exclude threads of the same process; `_OPEN` does.
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

from stores.atomic import explain_os_errors, open_file
from stores.errors import StoreError, os_reason
from stores.ledger import writer_id

_SLOT = 64  # bytes per task, which hold the id of its worker
_OPEN: dict[Path, tuple[int, int, set[int]]] = {}  # lock file → (process, its only descriptor, tasks locked by it)
_GUARD = threading.Lock()


class NoLocksError(StoreError):
    """The file system has no record locks."""


@contextmanager
def lock(path: Path, task: int) -> Iterator[bool]:
    """Lock a task for the duration of the context; yield False if another worker holds it. `path`: the lock file."""
    acquired = acquire(path, task)
    try:
        yield acquired
    finally:
        if acquired:
            with _GUARD:
                fd, locked = _descriptor(_place(path))
                if task in locked:
                    locked.discard(task)
                    fcntl.lockf(fd, fcntl.LOCK_UN, _SLOT, task * _SLOT)


def acquire(path: Path, task: int) -> bool:
    """Lock a task until this process ends; return False if a worker holds it, perhaps this one."""
    path = _place(path)
    with _GUARD, _explain_errors(path, f"locking task {task}"):
        fd, locked = _descriptor(path)
        if task in locked:
            return False
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _SLOT, task * _SLOT)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        try:
            os.pwrite(fd, writer_id().encode()[:_SLOT].ljust(_SLOT), task * _SLOT)
        except OSError:  # a full disk: others may take the task
            fcntl.lockf(fd, fcntl.LOCK_UN, _SLOT, task * _SLOT)
            raise
        locked.add(task)
        return True


def holder(path: Path, task: int) -> str | None:
    """Return `host:pid` of the live worker that holds a task, or None; the file need not be writable."""
    path = _place(path)
    with _GUARD, _explain_errors(path, f"looking up the lock of task {task}"):
        if not path.exists():
            return None
        is_open = path in _OPEN  # else this process has no lock that closing the file would drop
        fd, locked = _descriptor(path) if is_open else (open_file(path, os.O_RDONLY | os.O_NOFOLLOW), set[int]())
        try:
            if task in locked:
                return writer_id()
            # F_GETLK tests the lock without taking it, which would block a builder for a moment (fcntl(2))
            start, length, whence = task * _SLOT, _SLOT, os.SEEK_SET
            if sys.platform == "darwin":
                answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("qqihh", start, length, 0, fcntl.F_WRLCK, whence))
                kind = struct.unpack("qqihh", answer)[3]
            else:
                answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, whence, start, length, 0))
                kind = struct.unpack("hhqqi0q", answer)[0]
            if kind == fcntl.F_UNLCK:
                return None
            return os.pread(fd, _SLOT, task * _SLOT).rstrip(b"\0 ").decode(errors="replace") or "unknown"
        finally:
            if not is_open:
                os.close(fd)


@contextmanager
def _explain_errors(path: Path, action: str) -> Iterator[None]:
    with explain_os_errors(path.parent, action):
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise NoLocksError(
                f"the file system of {path.parent} has no record locks ({os_reason(error)}), "
                "which keep two builders apart; build on a local disk, NFS 4 or Lustre mounted with flock, and copy "
                "the store afterwards"
            ) from error


def _place(path: Path) -> Path:
    return path.parent.resolve() / path.name


def _descriptor(path: Path) -> tuple[int, set[int]]:
    """Return the process's only descriptor of the file (closing any other would drop all its locks), and its tasks."""
    process, fd, locked = _OPEN.get(path, (0, -1, set()))
    if process == os.getpid():
        if path.exists() and os.path.samestat(os.fstat(fd), path.stat()):
            return fd, locked
        del _OPEN[path]
        os.close(fd)  # the store was deleted or moved, and another one created in its place
    fd, locked = open_file(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW), set()
    _OPEN[path] = (os.getpid(), fd, locked)
    return fd, locked
