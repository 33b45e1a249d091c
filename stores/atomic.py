"""Atomic file writes: a temporary file, fsync where it must survive a power loss, then a rename."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stores.errors import StoreError


@contextmanager
def atomic_path(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when the block ends.

    If the block raises, `path` stays as it was and the temporary file is removed. Missing folders are created.
    `temporary` has to be on the same file system; default: a hidden file beside `path`.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}")
    for folder in (path.parent, temporary.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(data: bytes, path: Path, temporary: Path | None = None) -> None:
    """Write `data` to `path` atomically; file and directory entry are synced to the disk."""
    with atomic_path(path, temporary) as temporary:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
    sync_folder(path.parent)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, in as many calls as the system takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(folder: Path) -> None:
    """Sync the directory entries of `folder` to the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def explain_os_errors(path: Path | str, action: str) -> Iterator[None]:
    """Turn a full disk or a missing permission into a StoreError; `action` is what is being done to `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"no space left in {path} while {action}; free some space and run the same command again, "
                "finished work is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(
                f"{(error.strerror or 'refused').lower()} while {action} in {error.filename or path}; "
                "make it writable for this user or name another place"
            ) from error
        raise
