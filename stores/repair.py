"""What verification found becomes work to do again: damaged clips are absent afterwards, whole ones stay."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stores import atomic, ledger, locks, metadata
from stores.encodings import ChecksumError, crc32c
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, ClipRecord, TaskRecord
from stores.metadata import NAMES_KEY, OFFSETS_KEY, offsets_of
from stores.shards import ShardChunks, digest, open_shards
from stores.store import CueStore
from stores.verify import Thoroughness, check_clips


def restore_header(path: Path) -> bool:
    """Put back the root document from its copy where it is damaged; True if it was."""
    root, copy = path / metadata.ROOT_KEY, path / metadata.ROOT_COPY_KEY
    if not copy.exists():
        return False
    with contextlib.suppress(StoreError, FileNotFoundError):
        metadata.parse(root.read_bytes(), str(path))
        return False
    data = copy.read_bytes()
    metadata.parse(data, str(path))
    _publish(path, metadata.ROOT_KEY, data)
    return True


def repair_documents(store: CueStore) -> Iterator[str]:
    """Write anew the documents that follow from others; the names of those."""
    root = Path(store.path)
    names = (root / NAMES_KEY).read_bytes()
    expected = {key: metadata.encode_document(document) for key, document in store.header.documents().items()}
    if crc32c(names) == store.header.clip_checksums["names_crc32c"]:
        expected[OFFSETS_KEY] = offsets_of(names)
    expected[metadata.ROOT_COPY_KEY] = expected[metadata.ROOT_KEY]
    for key, data in expected.items():
        if not (root / key).exists() or (root / key).read_bytes() != data:
            _publish(root, key, data)
            yield key


def repair_task(store: CueStore, task: int, suspects: frozenset[int] = frozenset()) -> list[int]:
    """Mark as absent the clips of a task that are damaged now, and `suspects`; those clips.

    The task is held meanwhile; a task that a builder holds is left alone.
    """
    root = Path(store.path)
    with locks.hold(root / metadata.CLAIMS, task) as held:
        if not held:
            return []
        record, rebuilt = _record(store, task)
        if record is None:
            return []
        broken = {clip for finding in check_clips(store, record, Thoroughness.CHECKSUMS) for clip in finding.clips}
        damaged = sorted(broken | (suspects & set(_complete(store, record))))
        if damaged or rebuilt:
            _publish_record(root, _without(record, damaged, store.task_clips(task).start))
        return damaged


def sweep(store: CueStore) -> int:
    """Remove what dead workers left in the scratch folder; the number of tasks."""
    removed = 0
    root = Path(store.path)
    for folder in (root / metadata.SCRATCH).glob("*"):
        if not folder.name.isdigit():
            folder.unlink(missing_ok=True)
            continue
        with locks.hold(root / metadata.CLAIMS, int(folder.name)) as held:
            if held:
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
    return removed


def _record(store: CueStore, task: int) -> tuple[TaskRecord | None, bool]:
    """The record that holds; if unreadable, one from the shards and its name; if of other settings, an empty one."""
    try:
        record = store.ledger.latest(task)
    except StoreError:
        return _rebuilt(store, task), True
    if record is None:
        return None, False
    fits = record.fingerprint == store.header.digest and len(record.clips) == len(store.task_clips(task))
    nothing = tuple(ClipRecord(ABSENT) for _ in store.task_clips(task))
    return (record, False) if fits else (replace(record, fingerprint=store.header.digest, clips=nothing), True)


def _rebuilt(store: CueStore, task: int) -> TaskRecord:
    attempt, statuses = store.ledger.name_says(task)
    shards = open_shards(store.files, store.arrays, task, store.spec.shard_clips)
    clips = store.task_clips(task)
    records = [
        _clip_from_shards(store, shards, position, statuses[position] if position < len(statuses) else ABSENT)
        for position in range(len(clips))
    ]
    sizes = {name: shard.blob.size for name, shard in shards.items()}
    return TaskRecord(task, attempt, store.header.digest, tuple(records), sizes, 0.0, ledger.now(), ledger.signature())


def _clip_from_shards(store: CueStore, shards: dict[str, ShardChunks], position: int, status: int) -> ClipRecord:
    if status != COMPLETE:
        reason = None if status == ABSENT else "the reason was lost with a damaged ledger record"
        return ClipRecord(status, attempts=min(status, 1), reason=reason)
    try:
        chunks = {name: shards[name].clip(position) for name in store.arrays}
    except (KeyError, ChecksumError):
        return ClipRecord(ABSENT, attempts=1)
    return ClipRecord(COMPLETE, attempts=1, digest=digest(chunks))


def _without(record: TaskRecord, damaged: list[int], first: int) -> TaskRecord:
    clips = list(record.clips)
    for clip in damaged:
        clips[clip - first] = replace(clips[clip - first], status=ABSENT, digest=None)
    return replace(
        record, attempt=record.attempt + 1, clips=tuple(clips), written=ledger.now(), writer=ledger.signature()
    )


def _complete(store: CueStore, record: TaskRecord) -> list[int]:
    first = store.task_clips(record.task).start
    return [first + position for position, clip in enumerate(record.clips) if clip.status == COMPLETE]


def _publish_record(root: Path, record: TaskRecord) -> None:
    with atomic.writing(root, f"repairing task {record.task}"):
        (root / metadata.SCRATCH).mkdir(exist_ok=True)
        ledger.publish(root, record, root / metadata.SCRATCH / f"record-{record.task}")


def _publish(root: Path, key: str, data: bytes) -> None:
    with atomic.writing(root, f"repairing {key}"):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        atomic.publish(data, root / key, root / f"{key}.new")
