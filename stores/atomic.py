"""Atomic file writes: a temporary file, fsync, then a rename; and journals, which grow by a line of JSON at a time."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stores.errors import LilaError, StoreError, os_reason

log = logging.getLogger(__name__)

_COUNT = itertools.count()
_unsynced: set[Path] = set()  # the folder that the warning was about
_TEMPORARY = re.compile(r"\..{1,40}\.\d+-\d+(\.\w+)?")  # a name that `atomic_path` chose


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
    """Write bytes, or text as UTF-8, through `atomic_path`."""
    with atomic_path(path, temporary) as temporary, temporary.open("wb", buffering=0) as file:
        write_all(file.fileno(), data.encode() if isinstance(data, str) else data)


def remove_temporary(folder: Path) -> None:
    """Remove what a kill has left in `folder` of `atomic_path`; only for a process that alone writes there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def open_file(path: Path, flags: int) -> int:
    """Return a descriptor of a file; StoreError if something else is there, which might block."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StoreError(f"expected a file at {path}, found something else; move it away")
    return fd


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a journal as one line of JSON, in one write; a symbolic link is not followed."""
    with explain_os_errors(path.parent, f"writing {path.name}"):
        fd = open_file(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            after_cut_line = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            write_all(fd, b"\n" * after_cut_line + json.dumps(row).encode() + b"\n")
        finally:
            os.close(fd)


def read_lines(path: Path, key: str) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a journal that have `key`, and how many lines are no such row: damaged, or cut by a kill."""
    rows, damaged, data = [], 0, b""
    if path.exists():
        with explain_os_errors(path, "reading"), os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            data = file.read()
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or no UTF-8
            row = None
        if isinstance(row, dict) and key in row:
            rows.append(row)
        else:
            damaged += bool(line.strip())
    return rows, damaged


def require_local(path: Path) -> None:
    """Raise StoreError if a path to be written is a URL."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise StoreError(
            f"expected a folder of this machine, found the URL {str(path).replace(':/', '://', 1)}, which is only "
            "read; write into a folder, and copy it there afterwards"
        )


def nearest_existing(path: Path) -> Path:
    """Return the absolute path, or the nearest one above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def require_writable(path: Path, remedy: str) -> None:
    """Raise StoreError, before long work, where a file or folder cannot be written; `remedy` is what else to do."""
    require_local(path)
    above = nearest_existing(path)
    if above != path.absolute() and not above.is_dir():
        raise StoreError(f"expected a folder for {path}, found a file at {above}; {remedy}")
    folder = above if above.is_dir() else above.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(f"expected to write {path}, found no permission in {folder}; {remedy}")


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, in as many calls as the system takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_to_disk(path: Path) -> None:
    """Write a file, or the entries of a folder, to the disk; a file system's refusal for folders is logged once."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        refused = error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
        if not (refused and stat.S_ISDIR(os.fstat(fd).st_mode)):
            raise
        if not _unsynced:
            _unsynced.add(path)
            log.warning(
                "the file system does not write the entries of %s to the disk when it is asked (%s): after a power "
                "loss, check the files that were written last",
                path, os_reason(error),
            )  # fmt: skip
    finally:
        os.close(fd)


def discard(path: Path) -> bool:
    """Remove a file, a link, or a folder with its content; return False if that is not possible."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
            for entry in path.iterdir():
                discard(entry)
            path.rmdir()
        else:
            path.unlink()
        return True
    return False


@contextmanager
def explain_os_errors(path: Path | str, action: str) -> Iterator[None]:
    """Turn errors of `action` on `path` that the user can remove into StoreError, or LilaError for a bad name."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            found, remedy = "no space left", "free some space"
            with suppress(OSError):
                if error.errno == errno.EDQUOT:
                    found = "the quota of bytes or files is used up"
                elif (limits := os.statvfs(path)).f_files and not limits.f_favail:
                    found, remedy = "no room for another file (no inode) left", "delete some files"
            raise StoreError(
                f"{found} in {path} while {action}; {remedy} and run the same command again, finished work is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(
                f"{os_reason(error)} while {action} in {error.filename or path}; "
                "make it writable for this user or name another place"
            ) from error
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ):
            raise LilaError(f"{os_reason(error)} while {action} in {path}; rename the input") from error
        if error.errno == errno.ELOOP:
            link = error.filename or path
            raise StoreError(f"expected a file, found a symbolic link at {link}; delete it") from error
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENXIO):
            raise StoreError(
                f"{os_reason(error)} while {action}: {error.filename2 or error.filename or path}; "
                "move away what is in its place (`lila-cues repair` does so in a store), and run the same command again"
            ) from error
        raise
