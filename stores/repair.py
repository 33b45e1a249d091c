"""Repair a store: rewrite documents, and mark damaged clips as absent, so that the next build computes them again."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stores import ledger, locks, metadata
from stores.atomic import atomic_write, explain_os_errors
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED, ClipRecord, TaskRecord
from stores.metadata import ROOT_COPY_KEY, ROOT_KEY
from stores.shards import digest, open_shards, read_clip
from stores.store import CueStore
from stores.verify import Thoroughness, check_clips


def restore_header(path: Path) -> bool:
    """Restore the root document from its copy if it is damaged; return True if it was."""
    copy = path / ROOT_COPY_KEY
    if not copy.exists():
        return False
    with contextlib.suppress(StoreError, FileNotFoundError):
        metadata.parse_header((path / ROOT_KEY).read_bytes(), str(path))
        return False
    data = copy.read_bytes()
    metadata.parse_header(data, str(path))
    atomic_write(data, path / ROOT_KEY)
    return True


def repair_documents(store: CueStore) -> Iterator[str]:
    """Rewrite the documents that can be derived from others; yield their keys."""
    root = Path(store.path)
    expected = store.header.documents()
    expected[ROOT_COPY_KEY] = expected[ROOT_KEY]
    for key, data in expected.items():
        if not (root / key).exists() or (root / key).read_bytes() != data:
            atomic_write(data, root / key)
            yield key


def repair_task(store: CueStore, task: int, suspects: frozenset[int] = frozenset()) -> list[int]:
    """Mark as absent, and return, the complete clips of a task that are damaged or among `suspects`.

    The task is locked meanwhile. A task that a builder has locked is left alone.
    """
    root, clips = Path(store.path), store.task_clips(task)
    with locks.lock(root / metadata.LOCKS, task) as locked:
        record, rebuilt = _usable_record(store, task) if locked else (None, False)
        if record is None:
            return []
        complete = {clip for clip, entry in zip(clips, record.clips, strict=True) if entry.status == COMPLETE}
        damaged = {clip for finding in check_clips(store, record, Thoroughness.CHECKSUMS) for clip in finding.clips}
        marked = damaged | (suspects & complete)
        if marked or rebuilt:
            entries = tuple(
                replace(entry, status=ABSENT, digest=None) if clip in marked else entry
                for clip, entry in zip(clips, record.clips, strict=True)
            )
            record = replace(record, attempt=record.attempt + 1, clips=entries)
            with explain_os_errors(root, f"repairing task {task}"):
                ledger.publish(root, record, root / metadata.SCRATCH / f"record-{task}")
        return sorted(marked)


def _usable_record(store: CueStore, task: int) -> tuple[TaskRecord | None, bool]:
    """Return the current record of a task, and whether it differs from the one on disk.

    An unreadable record is rebuilt from its name and the shards; one of other settings is replaced by an empty one.
    """
    n_clips = len(store.task_clips(task))
    with contextlib.suppress(StoreError):
        record = store.ledger.latest(task)
        if record is None or (record.fingerprint == store.header.digest and len(record.clips) == n_clips):
            return record, False
        return replace(record, fingerprint=store.header.digest, clips=(ClipRecord(ABSENT),) * n_clips), True
    key = (store.ledger.keys(only=task) or {}).get(task)
    attempt, statuses = (int(key[2]), [int(digit) for digit in key[3]]) if key else (0, [])
    shards = open_shards(store.files, store.arrays, task, store.spec.shard_clips)
    clips = []
    for position in range(n_clips):
        status = statuses[position] if position < len(statuses) else ABSENT
        chunks = read_clip(shards, store.arrays, position) if status == COMPLETE else None
        if chunks is not None:
            clips.append(ClipRecord(COMPLETE, attempts=1, digest=digest(chunks)))
        elif status == FAILED:
            clips.append(ClipRecord(FAILED, attempts=1, reason="the reason was lost with a damaged ledger record"))
        else:
            clips.append(ClipRecord(ABSENT, attempts=int(status == COMPLETE)))
    sizes = {name: shard.blob.size for name, shard in shards.items()}
    names = tuple(store.clip_id(clip) for clip in store.task_clips(task))
    ends = {name: shard.end_crc32c for name, shard in shards.items()}
    rebuilt = TaskRecord(task, attempt, store.header.digest, tuple(clips), sizes, 0.0, 0.0, "", names, ends)
    return rebuilt, True


def sweep(store: CueStore) -> int:
    """Remove the scratch files of dead workers; return the number of their tasks."""
    removed, root = 0, Path(store.path)
    for folder in (root / metadata.SCRATCH).glob("*"):
        if not folder.name.isdigit():
            folder.unlink(missing_ok=True)
            continue
        with locks.lock(root / metadata.LOCKS, int(folder.name)) as locked:
            if locked:
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
    return removed
