"""Writes one task: encoded clips in, complete shards and a ledger record out, or nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from stores import ledger
from stores.atomic import explain_os_errors, sync_to_disk
from stores.backends import LocalFiles
from stores.encodings import ChecksumError
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED, ClipRecord, TaskRecord, remove_leftovers, writer_id
from stores.metadata import SCRATCH
from stores.shards import EncodedClip, ShardWriter, digest, open_shard, open_shards, read_clip

if TYPE_CHECKING:
    from stores.store import CueStore


class TaskWriter:
    """Streams the clips of one task into new shards; `publish` renames them into place and records the task.

    Shards are begun by the first clip that is added: clips that an earlier attempt completed are copied into them byte
    for byte, and a damaged one becomes absent. Only the holder of the task's lock may have a writer
    (`CueStore.lock_task`). Where locks do not exclude others, as on some network file systems, the files of two writers
    stay apart, and a writer records only shards that are its own.

    Args:
        store: in a folder.
        previous: the task's current record.
        pending_status: status of the clips to build, ABSENT or FAILED.
    """

    def __init__(self, store: CueStore, task: int, previous: TaskRecord | None, pending_status: int) -> None:
        self.task = task
        assert isinstance(store.files, LocalFiles)
        self._store, self._root = store, store.files.root
        self._clips = store.task_clips(task)
        self._names = tuple(store.clip_id(clip) for clip in self._clips)
        self._start = time.perf_counter()
        self._previous = previous
        self._records = [ClipRecord(ABSENT)] * len(self._names) if previous is None else list(previous.clips)
        self._pending = {position for position, record in enumerate(self._records) if record.status == pending_status}
        self._scratch = self._root / SCRATCH / f"{task}-{time.time_ns():x}-{writer_id()}"
        self._shards: dict[str, ShardWriter] = {}
        remove_leftovers(self._scratch.parent.glob(f"{task}-*"))

    def pending(self) -> list[int]:
        return [self._clips[position] for position in sorted(self._pending)]

    def add(self, clip: int, chunks: EncodedClip) -> None:
        position = self._position(clip)
        with explain_os_errors(self._root, f"writing clip {self._names[position]}"):
            if not self._shards:
                self._begin()
            for name, parts in chunks.items():
                self._shards[name].write(position, parts)
        self._pending.remove(position)
        self._records[position] = ClipRecord(COMPLETE, self._records[position].attempts + 1, None, digest(chunks))

    def _begin(self) -> None:
        """Create the shards, and copy the clips that are complete."""
        specs, shard_clips = self._store.arrays, self._store.spec.shard_clips
        self._scratch.mkdir(parents=True)
        for name, spec in specs.items():
            self._shards[name] = ShardWriter(self._scratch / name, shard_clips, spec.clip_chunks)
        shards = open_shards(self._store.files, specs, self.task, shard_clips)
        for position, record in enumerate(self._records):
            if record.status == COMPLETE:
                chunks = read_clip(shards, specs, position)
                if chunks is None or digest(chunks) != record.digest:
                    self._records[position] = replace(record, status=ABSENT, digest=None)
                    continue
                for name, parts in chunks.items():
                    self._shards[name].write(position, parts)

    def fail(self, clip: int, reason: str) -> None:
        """Record that a clip cannot be done, and why."""
        position = self._position(clip)
        self._pending.remove(position)
        self._records[position] = ClipRecord(FAILED, self._records[position].attempts + 1, " ".join(reason.split()))

    def publish(self) -> None:
        """Sync the shards, rename each into place, then write the record: until then the task is as it was before.

        If no clip was added, the shards stay as they are. StoreError if another writer has changed the task meanwhile.
        """
        temporary = self._scratch / "record"
        with explain_os_errors(self._root, f"finishing task {self.task}"):
            finished = {name: shard.finish() for name, shard in self._shards.items()}
            before = self._previous or TaskRecord(self.task, 0, self._store.header.digest, (), {}, 0.0)
            current = self._store.ledger.key(self.task)
            if (int(current["attempt"]) if current else 0) != before.attempt:
                raise self._conflict()
            if finished and self._previous:  # while shards are replaced one by one, those of either attempt are right
                before = replace(before, attempt=before.attempt + 1, shard_crc32c={})
                ledger.publish(self._root, before, temporary)
            record = replace(
                before,
                attempt=before.attempt + 1,
                fingerprint=self._store.header.digest,
                clips=tuple(self._records),
                seconds=round(time.perf_counter() - self._start, 3),
                names=self._names,
            )
            sizes, checksums = ({name: each[part] for name, each in finished.items()} for part in range(2))
            record = replace(record, shard_bytes=sizes, shard_crc32c=checksums) if finished else record
            try:
                for name in finished:
                    target = self._root / self._store.arrays[name].shard_key(self.task)
                    os.replace(self._scratch / name, target)
                    sync_to_disk(target.parent)
                self._require(checksums)
                ledger.publish(self._root, record, temporary)
                self._require(checksums)
            except StoreError:
                self._withdraw(before)
                raise

    def _require(self, checksums: Mapping[str, int]) -> None:
        """Raise StoreError if a shard is not the one with that checksum."""
        files, shard_clips = self._store.files, self._store.spec.shard_clips
        for name, checksum in checksums.items():
            try:
                open_shard(files, self._store.arrays[name], self.task, shard_clips, checksum)
            except ChecksumError as error:
                raise self._conflict() from error

    def _withdraw(self, before: TaskRecord) -> None:
        """Take back the task's record if this writer has replaced shards of it, or another writer those of this one."""
        current = self._store.ledger.latest(self.task)
        if current is not None:
            try:
                self._require(current.shard_crc32c)
            except StoreError:
                if self._previous:
                    again = replace(before, attempt=current.attempt + 1)
                    ledger.publish(self._root, again, self._scratch / "record")
                else:
                    (self._root / current.key).unlink(missing_ok=True)

    def _conflict(self) -> StoreError:
        return StoreError(
            f"expected to write task {self.task} of {self._root} alone, found that another process has written it too: "
            "the locks of this file system do not exclude others; build with one process at a time, or on a local "
            "disk, NFS 4 or Lustre mounted with flock"
        )

    def discard(self) -> None:
        """Delete everything that has not been published."""
        for shard in self._shards.values():
            shard.file.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _position(self, clip: int) -> int:
        position = clip - self._clips.start
        if position not in self._pending:
            raise StoreError(f"clip {clip} is not pending in task {self.task}; take clips from `pending()`, each once")
        return position
