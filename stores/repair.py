"""Repair a store: restore what follows from its other parts, and mark damaged clips to be built again.

Only `scratch` is emptied. What is in the way of a file, such as a folder, is moved to `set-aside`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stores import ledger, locks, metadata, verify
from stores.atomic import atomic_write, explain_os_errors, require_local
from stores.backends import LocalFiles
from stores.encodings import crc32c, with_checksum
from stores.errors import LilaError, StoreError, UnreadableError
from stores.ledger import ABSENT, COMPLETE, FAILED, ClipRecord, Key, TaskRecord, remove_leftovers, writer_id
from stores.metadata import LOCKS, NAMES_KEY, ROOT_COPY_KEY, ROOT_KEY, SCRATCH, encode_clip_names
from stores.shards import digest, open_shards, read_clip
from stores.store import CueStore, open
from stores.verify import Finding, Thoroughness, check_clips, contains

SET_ASIDE = "set-aside"


def open_damaged(path: Path) -> CueStore:
    """Open a store by its root document or the copy of it: by that which agrees with the records and the clip names."""
    require_local(path)
    files, found = LocalFiles(path), list[CueStore]()
    for key in (ROOT_KEY, ROOT_COPY_KEY):
        try:
            found.append(CueStore(files, metadata.parse_header(files.read(key), files.location)))
        except UnreadableError:
            raise
        except (StoreError, FileNotFoundError):
            continue
    if not found:
        return open(path)  # raises the error
    recorded = None
    for record in files.root.glob(f"{ledger.FOLDER}/*/*.json"):
        with contextlib.suppress(StoreError, FileNotFoundError):
            key = str(record.relative_to(files.root))
            recorded = ledger.decode(files.read(key), key).fingerprint
            break
    return max(found, key=lambda store: (store.header.digest == recorded, _has_its_names(store)))


def _has_its_names(store: CueStore) -> bool:
    with contextlib.suppress(StoreError):
        metadata.require_clip_names(store.files, store.header)
        return store.clips is not None
    return False


def repair(store: CueStore, findings: Iterable[Finding], list_clips: Callable[[], Sequence[str]]) -> Iterator[Finding]:
    """Repair a store; yield each repair with the clips to build again. `list_clips` returns those of the data set."""
    findings = list(findings)
    with explain_os_errors(store.path, "repairing"):
        yield from _clear_places(store, [*verify.document_keys(store), *verify.other_keys(store)])
        published = verify.published_statuses(store)
        yield from _repair_documents(store)
        yield from _repair_names(store, list_clips)
        suspects = frozenset(clip for finding in findings for clip in finding.clips if finding.kind == "value")
        for task in verify.tasks_of(findings, store):
            yield from _repair_task(store, task, suspects, published)
        if swept := sweep(store):
            yield Finding("repaired", SCRATCH, f"removed {swept} entr{'ies' if swept > 1 else 'y'} of dead builders")
        for folder in ledger.folders(store.n_tasks):
            Path(store.path, folder).mkdir(parents=True, exist_ok=True)
        store.publish_statuses()


def _clear_places(store: CueStore, keys: Iterable[str]) -> Iterator[Finding]:
    root = Path(store.path)
    for key in keys:
        while (path := store.files.in_the_way(key)) is not None:
            aside = root / SET_ASIDE / f"{'-'.join(path.relative_to(root.absolute()).parts)}-{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
            yield Finding("repaired", key, f"moved {path}, which was in its way, to {aside}")


def _repair_documents(store: CueStore) -> Iterator[Finding]:
    """Rewrite the documents that can be derived; attributes and arrays that a user added are kept."""
    documents = store.header.documents()
    for key, data in documents.items():
        expected, found = json.loads(data), _json(store, key)
        if contains(found, expected):
            continue
        if isinstance(found, dict) and isinstance(found.get("attributes"), dict):
            expected["attributes"] = found["attributes"] | expected["attributes"]
        if key == ROOT_KEY:
            listing = expected["consolidated_metadata"]["metadata"]
            for path in Path(store.path).glob(f"*/**/{ROOT_KEY}"):  # arrays and groups that a user added too
                member = path.parent.relative_to(store.path).as_posix()
                if not member.startswith(SET_ASIDE) and (each := _json(store, f"{member}/{ROOT_KEY}")) is not None:
                    listing |= {member: each} if contains(each, listing.get(member, each)) else {}
        yield _rewrite(store, key, json.dumps(expected, indent=1).encode())
    try:
        intact = metadata.parse_header(store.files.read(ROOT_COPY_KEY), store.path) == store.header
    except (StoreError, FileNotFoundError):
        intact = False
    if not intact:
        yield _rewrite(store, ROOT_COPY_KEY, documents[ROOT_KEY])


def _repair_names(store: CueStore, list_clips: Callable[[], Sequence[str]]) -> Iterator[Finding]:
    """Restore damaged clip names from the records or, if some are missing, from the data set."""
    header = store.header
    if _has_its_names(store):
        return
    data, size = b"", header.n_clips * header.name_bytes
    with contextlib.suppress(FileNotFoundError):
        data = store.files.read(NAMES_KEY)
    names = np.frombuffer(data[:size].ljust(size, b"\0"), f"S{header.name_bytes}").copy()
    listed = store.ledger.keys() or {}
    for task in listed:
        with contextlib.suppress(StoreError):
            record, clips = store.ledger.latest(task, listed), store.task_clips(task)
            if record is not None and len(record.names) == len(clips):
                names[clips.start : clips.stop] = [name.encode() for name in record.names]
    source = "the records"
    try:
        if crc32c(names.tobytes()) != header.names_crc32c:
            names, source = encode_clip_names(list_clips()), "the data set"
        if crc32c(names.tobytes()) != header.names_crc32c:
            raise LilaError("the data set has other clips; name that of the build with --root")
    except LilaError as error:
        yield Finding("not repaired", NAMES_KEY, f"the records of some tasks are missing, and {error}")
        return
    yield _rewrite(store, NAMES_KEY, with_checksum(names.tobytes()), f"restored from {source}")


def _json(store: CueStore, key: str) -> Any:
    with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
        return json.loads(store.files.read(key))
    return None


def _rewrite(store: CueStore, key: str, data: bytes, what: str = "rewritten") -> Finding:
    atomic_write(data, Path(store.path) / key)
    return Finding("repaired", key, what)


def _repair_task(store: CueStore, task: int, suspects: frozenset[int], published: np.ndarray) -> Iterator[Finding]:
    """Rebuild the record of a task if it is damaged; mark clips as absent that are damaged or among `suspects`.

    The task is locked during the repair. A task that a builder has locked is skipped.
    """
    root, clips = Path(store.path), store.task_clips(task)
    with locks.lock(root / LOCKS, task) as locked:
        if not locked:
            return
        key = store.ledger.key(task)
        statuses = list(map(int, key["statuses"])) if key else published[clips.start : clips.stop].tolist()
        claimed = {clip for clip, status in zip(clips, statuses, strict=False) if status == COMPLETE}
        records = [name for name in store.files.names(ledger.folder(task)) or () if name.startswith(f"{task:07d}-")]
        yield from _clear_places(
            store, [*store.shard_keys(task), *(f"{ledger.folder(task)}/{name}" for name in records)]
        )
        try:
            record, what = _usable_record(store, task, key, statuses)
        except UnreadableError:  # a finding of its own
            return
        complete = {clip for clip, entry in zip(clips, record.clips, strict=True) if entry.status == COMPLETE}
        found = list(check_clips(store, record, Thoroughness.CHECKSUMS))
        if any(finding.kind == "unreadable" for finding in found):
            return
        marked = {clip for finding in found for clip in finding.clips} | (suspects & complete)
        if found or marked or what is not None:
            entries = tuple(
                replace(entry, status=ABSENT, digest=None) if clip in marked else entry
                for clip, entry in zip(clips, record.clips, strict=True)
            )
            shards = open_shards(store.files, store.arrays, task, store.spec.shard_clips)
            checksums = record.shard_crc32c | {name: shard.end_crc32c for name, shard in shards.items()}
            record = replace(record, attempt=record.attempt + 1, clips=entries, shard_crc32c=checksums)
            ledger.publish(root, record, root / SCRATCH / f"record-{writer_id()}")
            what = what or ("damaged clips are marked as absent" if marked else "its shards are recorded anew")
            yield Finding("repaired", f"task {task}", what, tuple(sorted(marked | (claimed - complete))))


def _usable_record(store: CueStore, task: int, key: Key | None, statuses: list[int]) -> tuple[TaskRecord, str | None]:
    """Return the record of a task, and a description of the repair if it is not the one on disk.

    A damaged one is rebuilt from the shards and `statuses`; one of other settings is replaced by an empty one.
    """
    n_clips, record = len(store.task_clips(task)), None
    try:
        record = store.ledger.latest(task)
    except UnreadableError:
        raise
    except StoreError:
        pass
    if record is not None and record.fingerprint == store.header.digest and len(record.clips) == n_clips:
        return record, None
    if record is not None:
        empty = replace(record, fingerprint=store.header.digest, clips=(ClipRecord(ABSENT),) * n_clips)
        return empty, "a record of other settings was replaced"
    if not key:  # the array status may be behind: any clip may be there
        statuses = [status or COMPLETE for status in statuses]
    shards, clips = open_shards(store.files, store.arrays, task, store.spec.shard_clips), []
    for position, status in enumerate((statuses + [ABSENT] * n_clips)[:n_clips]):
        chunks = read_clip(shards, store.arrays, position) if status == COMPLETE else None
        if chunks is not None:
            clips.append(ClipRecord(COMPLETE, attempts=1, digest=digest(chunks)))
        elif status == FAILED:
            clips.append(ClipRecord(FAILED, attempts=1, reason="the reason was lost with a damaged ledger record"))
        else:
            clips.append(ClipRecord(ABSENT, attempts=int(status == COMPLETE)))
    attempt, sizes = int(key["attempt"]) if key else 0, {name: shard.blob.size for name, shard in shards.items()}
    names = tuple(store.clips[clip] for clip in store.task_clips(task)) if _has_its_names(store) else ()
    rebuilt = TaskRecord(task, attempt, store.header.digest, tuple(clips), sizes, 0.0, names=names)
    return rebuilt, "its record was rebuilt from its shards"


def sweep(store: CueStore) -> int:
    """Remove from `scratch` what dead builders left, and anything else; return the number of entries."""
    return remove_leftovers(Path(store.path, SCRATCH, name) for name in store.files.names(SCRATCH) or ())
