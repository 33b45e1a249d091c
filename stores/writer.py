"""Writes one task: encoded clips in, complete shards and a ledger record out, or nothing."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from stores import ledger
from stores.atomic import discard, explain_os_errors, sync_to_disk
from stores.backends import LocalFiles
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED, ClipRecord, TaskRecord
from stores.metadata import SCRATCH, Header
from stores.shards import EncodedClip, ShardWriter, digest, open_shards, read_clip
from stores.spec import arrays


class TaskWriter:
    """Streams the clips of one task into new shards; `publish` renames them into place and records the task.

    Clips that an earlier attempt completed are copied byte for byte at the start; a damaged one is pending again.
    Only the holder of the task's lock may have a writer (`CueStore.lock_task`).

    Args:
        names: names of the task's clips.
        previous: the task's current record.
        pending_status: status of the clips to build, ABSENT or FAILED.
    """

    def __init__(
        self, root: Path, header: Header, task: int, names: list[str], previous: TaskRecord | None, pending_status: int
    ) -> None:
        self.task = task
        self._root = root
        self._header = header
        self._names = names
        shard_clips = header.spec.shard_clips
        self._first = task * shard_clips
        self._specs = arrays(header.spec)
        self._start = time.perf_counter()
        self._previous = previous
        self._records = [ClipRecord(ABSENT)] * len(names) if previous is None else list(previous.clips)
        self._pending = {position for position, record in enumerate(self._records) if record.status == pending_status}
        self._scratch = root / SCRATCH / str(task)
        self._shards: dict[str, ShardWriter] = {}
        try:
            if not discard(self._scratch) and os.path.lexists(self._scratch):  # of a dead worker, perhaps another user
                self._scratch.rename(self._scratch.with_name(f"{task}-{time.time_ns()}"))
            self._scratch.mkdir(parents=True)
            for name, spec in self._specs.items():
                self._shards[name] = ShardWriter(self._scratch / name, shard_clips, spec.clip_chunks)
            shards = open_shards(LocalFiles(root), self._specs, task, shard_clips)
            for position, record in enumerate(self._records):
                if record.status != COMPLETE:
                    continue
                chunks = read_clip(shards, self._specs, position)
                if chunks is None or digest(chunks) != record.digest:
                    self._records[position] = replace(record, status=ABSENT, digest=None)
                    self._pending.add(position)
                else:
                    for name, parts in chunks.items():
                        self._shards[name].write(position, parts)
        except BaseException:
            self.discard()
            raise

    def pending(self) -> list[int]:
        """Return the clips that remain to be done."""
        return [self._first + position for position in sorted(self._pending)]

    def add(self, clip: int, chunks: EncodedClip) -> None:
        """Add a clip, encoded by `shards.encode_clip`."""
        position = self._position(clip)
        with explain_os_errors(self._root, f"writing clip {self._names[position]}"):
            for name, parts in chunks.items():
                self._shards[name].write(position, parts)
        self._pending.remove(position)
        self._records[position] = ClipRecord(COMPLETE, self._records[position].attempts + 1, None, digest(chunks))

    def fail(self, clip: int, reason: str) -> None:
        """Record that a clip cannot be done, and why."""
        position = self._position(clip)
        self._pending.remove(position)
        self._records[position] = ClipRecord(FAILED, self._records[position].attempts + 1, " ".join(reason.split()))

    def publish(self) -> None:
        """Sync the shards, rename each into place, then write the record: until then the task is as it was before."""
        with explain_os_errors(self._root, f"finishing task {self.task}"):
            finished = {name: shard.finish() for name, shard in self._shards.items()}
            attempt = 1
            if self._previous is not None:  # while shards are replaced one by one, those of either attempt are right
                attempt = self._previous.attempt + 2
                interim = replace(self._previous, attempt=attempt - 1, shard_crc32c={})
                ledger.publish(self._root, interim, self._scratch / "record")
            record = TaskRecord(
                self.task,
                attempt,
                self._header.digest,
                tuple(self._records),
                {name: size for name, (size, _) in finished.items()},
                seconds=round(time.perf_counter() - self._start, 3),
                names=tuple(self._names),
                shard_crc32c={name: checksum for name, (_, checksum) in finished.items()},
            )
            for name, spec in self._specs.items():
                target = self._root / spec.shard_key(self.task)
                os.replace(self._scratch / name, target)
                sync_to_disk(target.parent)
            ledger.publish(self._root, record, self._scratch / "record")
        self.discard()

    def discard(self) -> None:
        """Delete everything that has not been published."""
        for shard in self._shards.values():
            shard.file.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _position(self, clip: int) -> int:
        position = clip - self._first
        if position not in self._pending:
            raise StoreError(f"clip {clip} is not pending in task {self.task}; take clips from `pending()`, each once")
        return position
