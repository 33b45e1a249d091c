"""What has been done: one immutable record per task and attempt, whose *name* tells the status of each clip.

    ledger/012/0012345-002-1111111111121111.json     task 12345, second attempt, its tenth clip failed

So the status of every clip is a listing of folders, and nothing needs to be read to know what is there. The record of
the highest attempt holds; it appears by a rename, after the shards it speaks of. A record never changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stores import atomic
from stores.backends import Files
from stores.encodings import crc32c
from stores.errors import StoreError

FOLDER = "ledger"
ABSENT, COMPLETE, FAILED = 0, 1, 2
STATUS_NAMES = ("absent", "complete", "failed")
_BUCKET = 1000  # tasks per folder
_NAME = re.compile(r"(\d{7,})-(\d{3,})-([012]+)\.json")


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
    """One attempt at a task: its clips in order, the size in bytes of each shard. The names are those in the file."""

    task: int
    attempt: int  # from 1
    fingerprint: str  # `Header.digest`, in which the store's fingerprint is one part
    clips: tuple[ClipRecord, ...]
    shard_bytes: dict[str, int]  # by the array's name
    seconds: float  # that the attempt took
    written: float  # s since the epoch
    writer: str  # host:process

    @property
    def key(self) -> str:
        """Path of the record within the store."""
        digits = "".join(str(clip.status) for clip in self.clips)
        return f"{_folder(self.task)}/{self.task:07d}-{self.attempt:03d}-{digits}.json"

    def encode(self) -> bytes:
        """As JSON with its own checksum."""
        body = asdict(self)
        return atomic.canonical({"record": body, "crc32c": crc32c(atomic.canonical(body))})


def decode(data: bytes, key: str) -> TaskRecord:
    """The record, once its checksum and its name agree with it."""
    try:
        document = json.loads(data)
        body: dict[str, Any] = document["record"]
        if crc32c(atomic.canonical(body)) != document["crc32c"]:
            raise ValueError("checksum")
        record = TaskRecord(**{**body, "clips": tuple(ClipRecord(**clip) for clip in body["clips"])})
        if record.key != key:
            raise ValueError("name")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"the ledger record {key} is damaged ({error}); "
            "run `lila-cues verify` and then `lila-cues repair` on the store"
        ) from error
    return record


def signature() -> str:
    """Who writes: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Ledger:
    """The records of one store."""

    def __init__(self, files: Files, n_clips: int, shard_clips: int) -> None:
        self._files = files
        self.n_clips = n_clips
        self.shard_clips = shard_clips
        self.n_tasks = -(-n_clips // shard_clips)

    def statuses(self) -> np.ndarray | None:
        """uint8 (n_clips,); None where the files cannot be listed."""
        found = self.names()
        if found is None:
            return None
        statuses = np.zeros(self.n_tasks * self.shard_clips, np.uint8)
        for task, name in found.items():
            digits = np.frombuffer(name.rsplit("-", 1)[1][:-5].encode(), np.uint8) - ord("0")
            start = task * self.shard_clips
            statuses[start : start + len(digits)] = digits[: self.shard_clips]
        return statuses[: self.n_clips]

    def names(self) -> dict[int, str] | None:
        """The name of the record that holds, for each task that has one."""
        found: dict[int, str] = {}
        for bucket in range(-(-self.n_tasks // _BUCKET)):
            names = self._files.names(_folder(bucket * _BUCKET))
            if names is None:
                return None
            found.update(_latest(names, self.n_tasks))
        return found

    def latest(self, task: int) -> TaskRecord | None:
        """The record that holds for a task."""
        while True:
            name = _latest(self._files.names(_folder(task)) or [], self.n_tasks).get(task)
            with contextlib.suppress(FileNotFoundError):  # replaced by a later attempt since it was listed
                return None if name is None else self.read(task, name)

    def name_says(self, task: int) -> tuple[int, list[int]]:
        """Attempt and statuses that the name of the holding record tells; (0, []) where there is none."""
        name = _latest(self._files.names(_folder(task)) or [], self.n_tasks).get(task)
        match = None if name is None else _NAME.fullmatch(name)
        return (0, []) if match is None else (int(match[2]), [int(digit) for digit in match[3]])

    def read(self, task: int, name: str) -> TaskRecord:
        """One record by its name."""
        key = f"{_folder(task)}/{name}"
        return decode(self._files.read(key), key)


def publish(root: Path, record: TaskRecord, scratch: Path) -> None:
    """Make `record` the one that holds, then drop those it replaces."""
    path = root / record.key
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.sync_folder(root / FOLDER)
    atomic.publish(record.encode(), path, scratch)
    for name in os.listdir(path.parent):
        if name.startswith(f"{record.task:07d}-") and name != path.name:
            (path.parent / name).unlink(missing_ok=True)


def now() -> float:
    """s since the epoch, to the millisecond."""
    return round(time.time(), 3)


def _folder(task: int) -> str:
    return f"{FOLDER}/{task // _BUCKET:03d}"


def _latest(names: list[str], n_tasks: int) -> dict[int, str]:
    best: dict[int, tuple[int, str]] = {}
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None or int(match[1]) >= n_tasks:
            continue
        task, attempt = int(match[1]), int(match[2])
        if task not in best or attempt > best[task][0]:
            best[task] = (attempt, name)
    return {task: name for task, (_, name) in best.items()}
