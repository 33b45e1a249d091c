"""The ledger: one immutable record per task and attempt, whose *name* holds the status of each clip.

    ledger/012/0012345-002-1111111111121111.json     task 12345, second attempt, its tenth clip failed

The status of every clip is thus a listing of folders; no file has to be read. The record of the highest attempt is
current. It appears by a rename, after the shards that it records, and never changes.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stores import atomic
from stores.backends import Files
from stores.encodings import canonical_json, crc32c
from stores.errors import StoreError

FOLDER = "ledger"
ABSENT, COMPLETE, FAILED = 0, 1, 2
STATUS_NAMES = ("absent", "complete", "failed")
_DAY = 24 * 3600.0  # s
_BUCKET = 1000  # tasks per folder
_KEY = re.compile(r"ledger/\d+/(?P<task>\d{7,})-(?P<attempt>\d{3,})-(?P<statuses>[012]+)\.json")
Key = re.Match[str]  # of `_KEY`


@dataclass(frozen=True)
class ClipRecord:
    """One clip after an attempt; `status` is an index of STATUS_NAMES, `reason` that of a failure.

    `digest` is the crc32c over the checksums of all its inner chunks, None unless it is complete.
    """

    status: int
    attempts: int = 0
    reason: str | None = None
    digest: int | None = None


@dataclass(frozen=True)
class TaskRecord:
    """One attempt at a task: its clips in order, and its shards by array. Field names are those in the file."""

    task: int
    attempt: int  # from 1
    fingerprint: str  # `Header.digest`, in which the store's fingerprint is one part
    clips: tuple[ClipRecord, ...]
    shard_bytes: dict[str, int]
    seconds: float  # duration of the attempt
    written: float = 0.0  # s since the epoch, set by `publish`
    writer: str = ""  # host:pid, set by `publish`
    names: tuple[str, ...] = ()  # of the clips
    shard_crc32c: dict[str, int] = field(default_factory=dict)  # `Shard.end_crc32c`

    @property
    def key(self) -> str:
        digits = "".join(str(clip.status) for clip in self.clips)
        return f"{folder(self.task)}/{self.task:07d}-{self.attempt:03d}-{digits}.json"

    def encode(self) -> bytes:
        body = asdict(self)
        return canonical_json({"record": body, "crc32c": crc32c(canonical_json(body))})


def decode(data: bytes, key: str) -> TaskRecord:
    """Return the record in `data`, or raise StoreError if its checksum or its name does not match."""
    try:
        document = json.loads(data)
        body: dict[str, Any] = document["record"]
        if crc32c(canonical_json(body)) != document["crc32c"]:
            raise ValueError("checksum")
        clips = tuple(ClipRecord(**clip) for clip in body["clips"])
        record = TaskRecord(**{**body, "clips": clips, "names": tuple(body.get("names", ()))})
        if record.key != key:
            raise ValueError("name")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(key, error) from error
    return record


def publish(root: Path, record: TaskRecord, temporary: Path) -> None:
    """Publish `record` as the current attempt and delete earlier ones."""
    record = replace(record, written=round(time.time(), 3), writer=writer_id())
    path = root / record.key
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.sync_to_disk(root / FOLDER)
    atomic.atomic_write(record.encode(), path, temporary)
    for name in os.listdir(path.parent):
        key = _KEY.fullmatch(f"{folder(record.task)}/{name}")
        if key and int(key["task"]) == record.task and int(key["attempt"]) < record.attempt:
            (path.parent / name).unlink(missing_ok=True)


def writer_id() -> str:
    """Return host:pid of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def writer_may_live(path: Path) -> bool:
    """Return whether the process whose `writer_id` ends the name of a temporary file or folder may still write it.

    False if it has ended here, or has written nothing for a day: another host's, or a number that is used again.
    """
    writer = re.fullmatch(r".+-(.+):(\d+)", path.name)
    if writer is None:
        return False
    try:
        if path.name.endswith(f"-{socket.gethostname()}:{writer[2]}"):
            with suppress(PermissionError, OverflowError):  # of another user
                os.kill(int(writer[2]), 0)
        return time.time() - path.lstat().st_mtime < _DAY
    except (ProcessLookupError, FileNotFoundError):
        return False


def remove_leftovers(paths: Iterable[Path]) -> int:
    """Remove temporary files and folders whose writers have ended; return their number."""
    return sum(atomic.discard(path) for path in paths if not writer_may_live(path))


class Ledger:
    """The records of one store."""

    def __init__(self, files: Files, n_clips: int, shard_clips: int) -> None:
        self._files = files
        self.n_clips = n_clips
        self.shard_clips = shard_clips
        self.n_tasks = -(-n_clips // shard_clips)

    def statuses(self) -> np.ndarray | None:
        """Return uint8 (n_clips,); None if the files cannot be listed."""
        keys = self.keys()
        if keys is None:
            return None
        statuses = np.zeros(self.n_tasks * self.shard_clips, np.uint8)
        for task, key in keys.items():
            digits = np.frombuffer(key["statuses"].encode(), np.uint8) - ord("0")
            start = task * self.shard_clips
            statuses[start : start + len(digits)] = digits[: self.shard_clips]
        return statuses[: self.n_clips]

    def keys(self) -> dict[int, Key] | None:
        """Return the keys of the current records by task; None if files cannot be listed."""
        return self._current(folders(self.n_tasks))

    def key(self, task: int) -> Key | None:
        """Return the key of a task's current record; None if there is none, or files cannot be listed."""
        return (self._current([folder(task)], f"{task:07d}-") or {}).get(task)

    def _current(self, buckets: Iterable[str], prefix: str = "") -> dict[int, Key] | None:
        current: dict[int, Key] = {}
        for bucket in buckets:
            listed = self._files.names(bucket)
            if listed is None:
                return None
            names = (name for name in listed if name.startswith(prefix))
            for key in filter(None, (_KEY.fullmatch(f"{bucket}/{name}") for name in names)):
                task, attempt = int(key["task"]), int(key["attempt"])
                if task < self.n_tasks and (task not in current or attempt > int(current[task]["attempt"])):
                    current[task] = key
        return current

    def latest(self, task: int, listed: Mapping[int, Key] | None = None) -> TaskRecord | None:
        """Return the current record of a task, by `listed` keys if given; StoreError if it cannot be read."""
        missing, key = None, self.key(task) if listed is None else listed.get(task)
        while key:
            if key[0] == missing:
                raise _damaged(missing, "it is listed, but there is no such file")
            try:
                return decode(self._files.read(key[0]), key[0])
            except FileNotFoundError:  # replaced by a later attempt since it was listed
                missing, key = key[0], self.key(task)
        return None


def folder(task: int) -> str:
    """Return the folder of a task's records."""
    return f"{FOLDER}/{task // _BUCKET:03d}"


def folders(n_tasks: int) -> list[str]:
    """Return the folders of all records, which exist from the start: a missing one was lost."""
    return [folder(task) for task in range(0, n_tasks, _BUCKET)]


def _damaged(key: str, reason: object) -> StoreError:
    return StoreError(
        f"the ledger record {key} is damaged ({reason}); "
        "run `lila-cues verify` and then `lila-cues repair` on the store"
    )
