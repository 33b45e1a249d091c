"""One worker's hold on one task: clips in, whole shards and a ledger record out, or nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stores import atomic, ledger
from stores.backends import LocalFiles
from stores.cues import ClipCues
from stores.encodings import ChecksumError
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED, ClipRecord, TaskRecord
from stores.metadata import SCRATCH, Header
from stores.shards import EncodedClip, ShardChunks, ShardWriter, digest, encode_clip, open_shards
from stores.spec import ArraySpec, arrays


class TaskWriter:
    """Streams the clips of one task into new shards; `publish` puts them in place and records them.

    Clips that an earlier attempt completed are carried over byte for byte at the start; one whose bytes are damaged is
    pending again. Only its holder (see `CueStore.lock_task`) may have a writer.
    """

    def __init__(self, root: Path, header: Header, clips: range, names: list[str], before: TaskRecord | None) -> None:
        self._root = root
        self._header = header
        self._clips = clips
        self._names = names
        self._specs = arrays(header.spec)
        self._before = before
        self._start = time.perf_counter()
        nothing = (ClipRecord(ABSENT),) * len(clips)
        self._records = list(nothing if before is None else before.clips)
        self._pending: set[int] = set()
        self._scratch = root / SCRATCH / str(self.task)
        self._shards: dict[str, ShardWriter] = {}

    @property
    def task(self) -> int:
        """Its number."""
        return self._clips.start // self._header.spec.shard_clips

    def open(self, wanted: int) -> None:
        """Make the scratch files, in place of those of a dead worker, and carry over what is complete.

        Pending are the clips of status `wanted` (ABSENT or FAILED), and those that turn out to be damaged.
        """
        self._pending = {position for position, record in enumerate(self._records) if record.status == wanted}
        shutil.rmtree(self._scratch, ignore_errors=True)
        with atomic.writing(self._root, f"starting task {self.task}"):
            self._scratch.mkdir(parents=True)
            for name, spec in self._specs.items():
                entries = self._header.spec.shard_clips * spec.clip_chunks
                self._shards[name] = ShardWriter(self._scratch / name, entries)
            shards = open_shards(LocalFiles(self._root), self._specs, self.task, self._header.spec.shard_clips)
            for position, record in enumerate(self._records):
                if record.status == COMPLETE:
                    self._carry(position, shards)

    def pending(self) -> list[int]:
        """Clips still to do."""
        return [self._clips[position] for position in sorted(self._pending)]

    def complete(self, clip: int, cues: ClipCues) -> None:
        """Add all cues of a clip."""
        position = self._begin(clip)
        self.add(position, encode_clip(self._names[position], self._specs, cues))

    def fail(self, clip: int, reason: str) -> None:
        """Record that a clip cannot be done, and why."""
        position = self._begin(clip)
        self._pending.remove(position)
        self._records[position] = ClipRecord(FAILED, self._records[position].attempts + 1, " ".join(reason.split()))

    def add(self, position: int, chunks: EncodedClip) -> None:
        """Add a clip, by its place in the task, as encoded bytes."""
        with atomic.writing(self._root, f"writing clip {self._names[position]}"):
            self._append(position, chunks)
        attempts = self._records[position].attempts + 1
        self._pending.discard(position)
        self._records[position] = ClipRecord(COMPLETE, attempts, None, digest(chunks))

    def publish(self) -> None:
        """Sync the shards, put each in its place, then write the record: until then the task is as it was before."""
        with atomic.writing(self._root, f"finishing task {self.task}"):
            sizes = {name: shard.close() for name, shard in self._shards.items()}
            for name in self._specs:
                target = self._root / self._specs[name].shard_key(self.task)
                os.replace(self._scratch / name, target)
                atomic.sync_folder(target.parent)
            ledger.publish(self._root, self._record(sizes), self._scratch / "record")
        self.discard()

    def discard(self) -> None:
        """Drop what has not been published."""
        for shard in self._shards.values():
            shard.abandon()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _begin(self, clip: int) -> int:
        position = clip - self._clips.start
        if position not in self._pending:
            raise StoreError(f"clip {clip} is not pending in task {self.task}; take clips from `pending()`, each once")
        return position

    def _carry(self, position: int, shards: Mapping[str, ShardChunks]) -> None:
        chunks = _whole_clip(self._specs, shards, position)
        if chunks is None or digest(chunks) != self._records[position].digest:
            self._records[position] = replace(self._records[position], status=ABSENT, digest=None)
            self._pending.add(position)
        else:
            self._append(position, chunks)

    def _append(self, position: int, chunks: EncodedClip) -> None:
        for name, parts in chunks.items():
            first = position * self._specs[name].clip_chunks
            for offset, part in enumerate(parts):
                self._shards[name].write(first + offset, part)

    def _record(self, sizes: dict[str, int]) -> TaskRecord:
        return TaskRecord(
            task=self.task,
            attempt=1 if self._before is None else self._before.attempt + 1,
            fingerprint=self._header.digest,
            clips=tuple(self._records),
            shard_bytes=sizes,
            seconds=round(time.perf_counter() - self._start, 3),
            written=ledger.now(),
            writer=ledger.signature(),
        )


def _whole_clip(specs: Mapping[str, ArraySpec], shards: Mapping[str, ShardChunks], position: int) -> EncodedClip | None:
    try:
        return {name: shards[name].clip(position) for name in specs}
    except (KeyError, ChecksumError):
        return None
