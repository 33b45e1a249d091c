"""Is the store what its ledger says? Documents, ledger, shards, checksums, values: one finding for each thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from stores import layout, payloads
from stores.arrays import ArraySpec
from stores.clips import NAMES_KEY, OFFSETS_KEY
from stores.codecs import ChecksumError, crc32c, decode_into
from stores.cues import ClipCues
from stores.deviation import deviations
from stores.encodings import Rows
from stores.errors import StoreError
from stores.ledger import COMPLETE, TaskRecord
from stores.payloads import ClipPayloads, ShardChunks
from stores.ranges import wrong_values
from stores.store import CueStore


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be; `clips` are those that have to be built again for it."""

    kind: str  # document, ledger, shard, chunk or value; a note is no damage
    where: str
    what: str
    clips: tuple[int, ...] = ()
    task: int | None = None  # where the ledger itself is wrong

    def to_dict(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}" + (f" (clips {_spans(self.clips)})" if self.clips else "")


class Thoroughness(IntEnum):
    """What is looked at of each shard: its index, every inner chunk of complete clips, and the values in them."""

    INDICES = 0
    CHECKSUMS = 1
    VALUES = 2


def check_documents(store: CueStore) -> Iterator[Finding]:
    """Metadata of group and arrays, the clip list, and `status` against the ledger."""
    for key, document in store.header.documents().items():
        expected = layout.encode(document)
        found = _read(store, key)
        if found is None:
            yield Finding("document", key, "it is missing")
        elif found != expected:
            yield Finding("document", key, "it is not what the store's own spec makes of it")
    for key, name in ((NAMES_KEY, "names_crc32c"), (OFFSETS_KEY, "offsets_crc32c")):
        found = _read(store, key)
        if found is None or crc32c(found) != store.header.clip_checksums[name]:
            yield Finding("document", key, "it is missing" if found is None else "its checksum does not agree")
    yield from _check_statuses(store)


def check_task(store: CueStore, task: int, look_at: Thoroughness = Thoroughness.VALUES) -> Iterator[Finding]:
    """The record of a task, its shards, and its complete clips."""
    try:
        record = store.ledger.latest(task)
    except StoreError as error:
        yield Finding("ledger", f"task {task}", str(error), task=task)
        return
    if record is None:
        return
    wrong = _record_wrong(store, task, record)
    if wrong:
        yield Finding("ledger", record.key, wrong, task=task)
        return
    yield from check_clips(store, record, look_at)


def check_clips(store: CueStore, record: TaskRecord, look_at: Thoroughness) -> Iterator[Finding]:
    """The shards of a task and its complete clips."""
    complete = [position for position, clip in enumerate(record.clips) if clip.status == COMPLETE]
    if not complete:
        return
    first = store.task_clips(record.task).start
    shards: dict[str, ShardChunks] = {}
    for name, spec in store.arrays.items():
        try:
            shards[name] = payloads.open_shard(store.files, spec, record.task, store.spec.shard_clips)
        except (ChecksumError, FileNotFoundError) as error:
            what = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
            yield Finding("shard", spec.shard_key(record.task), what, tuple(first + position for position in complete))
    if len(shards) == len(store.arrays) and look_at >= Thoroughness.CHECKSUMS:
        for position in complete:
            yield from _check_clip(store, shards, record, position, look_at)


def sample(store: CueStore, count: int, seed: int) -> list[int]:
    """Complete clips at random, ascending."""
    clips = store.complete_clips()
    random = np.random.Generator(np.random.Philox(key=seed))
    return sorted(random.choice(clips, min(count, len(clips)), replace=False).tolist())


def check_recomputed(store: CueStore, clip: int, recompute: Callable[[CueStore, int], ClipCues]) -> Iterator[Finding]:
    """Compute a clip again with the recorded networks and compare; see `deviation` for how much may differ."""
    for name, far, allowed in deviations(store, clip, recompute(store, clip)):
        if far > allowed:
            what = f"computed again, a hundredth of it is off by more than {far:.3g} ({allowed:.3g} is allowed)"
            yield Finding("value", f"{name} of clip {clip}", what, (clip,))


def _check_clip(
    store: CueStore,
    shards: Mapping[str, ShardChunks],
    record: TaskRecord,
    position: int,
    look_at: Thoroughness,
) -> Iterator[Finding]:
    clip = store.task_clips(record.task)[position]
    chunks: dict[str, list[bytes]] = {}
    for name, shard in shards.items():
        try:
            chunks[name] = shard.clip(position)
        except ChecksumError as error:
            yield Finding("chunk", store.arrays[name].shard_key(record.task), str(error), (clip,))
    if len(chunks) < len(shards):
        return
    if payloads.digest(chunks) != record.clips[position].digest:
        yield Finding("chunk", f"clip {clip}", "its bytes are not those that were recorded", (clip,))
    elif look_at >= Thoroughness.VALUES:
        for name, phrase in wrong_values(store.arrays, _decoded(store.arrays, chunks)):
            yield Finding("value", f"{name} of clip {clip}", phrase, (clip,))


def _decoded(arrays: Mapping[str, ArraySpec], chunks: ClipPayloads) -> dict[str, np.ndarray]:
    stored = {name: _stack(arrays[name], parts) for name, parts in chunks.items()}
    decoded = {}
    for name, values in stored.items():
        encoding = arrays[name].encoding
        scales = stored.get(f"{name}_scale")
        decoded[name] = encoding.decode(values, scales) if isinstance(encoding, Rows) else encoding.decode(values)  # type: ignore[arg-type]
    return decoded


def _stack(spec: ArraySpec, parts: list[bytes]) -> np.ndarray:
    out = np.empty(spec.shape, spec.dtype)
    for part, chunk in zip(parts, out if spec.split else [out], strict=True):
        decode_into(np.frombuffer(part, np.uint8), chunk)
    return out


def _record_wrong(store: CueStore, task: int, record: TaskRecord) -> str | None:
    if record.fingerprint != store.header.digest:
        return "it was written for other settings than the store's"
    if len(record.clips) != len(store.task_clips(task)):
        return f"it speaks of {len(record.clips)} clips, the task has {len(store.task_clips(task))}"
    return None


def _check_statuses(store: CueStore) -> Iterator[Finding]:
    data = _read(store, layout.STATUS_KEY)
    try:
        if data is None or not np.array_equal(layout.decode_statuses(data, store.path), store.statuses()):
            yield Finding("note", layout.STATUS_KEY, "it is behind the ledger, as after a build that was stopped")
    except StoreError as error:
        yield Finding("document", layout.STATUS_KEY, str(error))


def _read(store: CueStore, key: str) -> bytes | None:
    try:
        return store.files.read(key)
    except FileNotFoundError:
        return None


def _spans(clips: tuple[int, ...]) -> str:
    """'0-3, 7' for (0, 1, 2, 3, 7)."""
    spans: list[list[int]] = []
    for clip in clips:
        if spans and clip == spans[-1][1] + 1:
            spans[-1][1] = clip
        else:
            spans.append([clip, clip])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
