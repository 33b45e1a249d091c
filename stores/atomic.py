"""Files that are there whole or not at all.

Files that are either not there or whole: written under another name, synced, renamed, the folder synced.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stores.errors import StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def publish(data: bytes, path: Path, scratch: Path) -> None:
    """Write `data` to `path` by way of the file `scratch` on the same file system."""
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(scratch, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def canonical(document: Any) -> bytes:
    """One spelling of a JSON document, for checksums and for files."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


@contextmanager
def writing(path: Path | str, doing: str) -> Iterator[None]:
    """Say in one sentence what a full disk or a missing permission means for the store at `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreError(
                f"no space left in {path} while {doing}; make room and run the same command again, "
                "what was finished is kept"
            ) from error
        if error.errno in _FORBIDDEN:
            raise StoreError(
                f"{(error.strerror or 'refused').lower()} while {doing} in {error.filename or path}; "
                "make it writable for this user or name another place"
            ) from error
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A hidden path beside `path`, whose folder is made, to write to: what is there takes its name when the block ends.

    Where the block fails, `path` is as it was before and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
