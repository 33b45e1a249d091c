"""Output folders: the same command continues, other settings are refused, --overwrite starts again; JSON files.

A process that has opened a folder keeps it locked until it ends.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from lila_cues.console import counted
from stores import locks
from stores.atomic import atomic_write, explain_os_errors, remove_temporary
from stores.config import differences
from stores.errors import LilaError
from stores.ledger import writer_id
from stores.locks import NoLocksError

Json = dict[str, Any]

_LOCK = ".lock"


@contextmanager
def name_kept(out: Path, count: Callable[[], int]) -> Iterator[None]:
    """Add to a LilaError of the block how many frames before it have results in `out`."""
    try:
        yield
    except LilaError as error:
        if not (kept := count()):
            raise
        raise LilaError(f"{error}; the results of the {counted({'frames': kept})} before it are in {out}") from error


def open_folder(
    root: Path, record: str, wanted: Json, own: Iterable[Path], overwrite: bool = False, replace_damaged: bool = False
) -> None:
    """Create the folder of a command's results, or open it to continue the same work.

    Args:
        record: name of the JSON file in it that holds what shapes the results, and may hold more.
        wanted: what shapes them, for this command.
        own: files and folders that the command writes; if `overwrite`, those that exist are deleted.
        replace_damaged: overwrite results whose record cannot be read.

    Raises:
        LilaError: `root` is a file, holds something else, or results of other settings, which are named; or another
            process works in it.
    """
    if root.exists() and not root.is_dir():
        raise LilaError(f"expected a folder for --out, found a file at {root}; pass another --out")
    own = list(own)
    file, wanted, again = root / record, as_json(wanted), "start again with --overwrite, or pass another --out"
    try:
        recorded = {} if overwrite else read_json(file) or {}
    except LilaError as error:
        if not replace_damaged:
            raise LilaError(f"{file}, the record of these results, is damaged; {again}") from error
        recorded, overwrite = {}, True
    existing: list[Path] = []  # to be deleted
    if root.is_dir() and {path.name for path in root.iterdir()} - {record, _LOCK}:  # else nothing was computed
        existing = [] if file.exists() and not overwrite else [path for path in own if path.exists()]
        if not existing and not file.exists():
            raise LilaError(
                f"expected an empty folder or results of this command in {root}, found neither; pass another --out"
            )
        if not overwrite and wanted.keys() - recorded.keys():
            raise LilaError(f"{root} holds results without the settings of this version, written by 0.1; {again}")
        if changes := not overwrite and differences({name: recorded[name] for name in wanted}, wanted):
            raise LilaError(f"{root} holds results of other settings ({'; '.join(changes)}); pass those, {again}")
    _lock(root)
    for path in existing:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in {root, *(path if path.is_dir() else path.parent for path in own)}:
        remove_temporary(folder)
    write_json(file, recorded | wanted)


def _lock(root: Path) -> None:
    """Lock a folder until this process ends, for whatever reason; LilaError if another process holds it.

    A file system without locks is used without.
    """
    path = root.resolve() / _LOCK
    with explain_os_errors(root, "locking the folder"):
        root.mkdir(parents=True, exist_ok=True)
    with suppress(NoLocksError):
        if not locks.acquire(path, 0) and (holder := locks.holder(path, 0)) != writer_id():
            raise LilaError(
                f"{root} is in use by another process ({holder or 'unknown'}); wait for its end, or pass another --out"
            )


def read_json(path: Path) -> Json | None:
    """Read a JSON object, after a byte order mark or not; None where there is no file, LilaError if it is damaged."""
    if not path.is_file():
        return None
    again = "restore it, or run the command that wrote it again with --overwrite"
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise LilaError(f"{path} is damaged ({error}); {again}") from error
    if not isinstance(content, dict):
        raise LilaError(f"{path} is damaged (no JSON object); {again}")
    return content


def scratch_array(shape: tuple[int, ...], dtype: DTypeLike, folder: Path | None) -> np.ndarray:
    """Return an array in an unnamed file, which lasts as long as the array; None: in the folder of temporary files."""
    if not math.prod(shape):
        return np.empty(shape, dtype)
    place = folder or "the folder of temporary files"
    with explain_os_errors(place, "keeping features"), TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def write_json(path: Path, content: Json) -> Json:
    """Write atomically, and return the content as it is read back: new and resumed runs continue with equal values."""
    atomic_write(json.dumps(content, indent=1, ensure_ascii=False) + "\n", path)
    return as_json(content)


def as_json(content: Json) -> Json:
    """Return the content as JSON gives it back: lists for tuples, strings as keys."""
    stored: Json = json.loads(json.dumps(content))
    return stored


def files_state(paths: Iterable[Path]) -> str:
    """Return the hex SHA-256 of the files' places, sizes and times of change, in order; contents are not read."""
    digest = hashlib.sha256()
    for path in paths:
        found = path.stat()
        digest.update(f"{path.resolve()} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
