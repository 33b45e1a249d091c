"""Atomic file writes: a temporary file, fsync, then a rename."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stores.errors import LilaError, StoreError

_COUNT = itertools.count()


@contextmanager
def atomic_path(path: Path, temporary: Path | None = None, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when the block ends.

    If the block raises, `path` stays as it was and the temporary file is removed. Missing folders are created. A full
    disk or a missing permission is a StoreError that names the folder and the file.

    Args:
        path: where the file belongs.
        temporary: on the same file system; default: a hidden file beside `path`, with its suffix.
        sync: write file and directory entry to the disk, to survive a power loss.
    """
    temporary = temporary or path.with_name(f".{path.stem[:40]}.{os.getpid()}-{next(_COUNT)}{path.suffix}")
    with explain_os_errors(path.parent, f"writing {path.name}"):
        for folder in (path.parent, temporary.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if sync:
                sync_to_disk(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if sync:
            sync_to_disk(path.parent)


def atomic_write(data: bytes | str, path: Path, temporary: Path | None = None) -> None:
    """Write bytes, or text as UTF-8, by way of `atomic_path`."""
    with atomic_path(path, temporary) as temporary, temporary.open("wb", buffering=0) as file:
        write_all(file.fileno(), data.encode() if isinstance(data, str) else data)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, in as many calls as the system takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_to_disk(path: Path) -> None:
    """Write a file, or the entries of a folder, from the system's cache to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def explain_os_errors(path: Path | str, action: str) -> Iterator[None]:
    """Turn a full disk or a missing permission into a StoreError, a name that cannot be written into a LilaError.

    `action` is what is being done to `path`.
    """
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
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ):
            raise LilaError(
                f"{(error.strerror or 'refused').lower()} while {action} in {path}; rename the input"
            ) from error
        raise
