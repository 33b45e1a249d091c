"""One store out of several of the same settings, built on separate machines: inner chunks are copied as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from stores.encodings import ChecksumError
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED
from stores.opening import create, differences
from stores.shards import EncodedClip, digest, open_shards
from stores.store import CueStore
from stores.writer import TaskWriter

Place = tuple[int, int]  # which source, which clip in it
_RANK = {COMPLETE: 0, FAILED: 1, ABSENT: 2}


def merge(path: Path, sources: Sequence[CueStore], advance: Callable[[int], None] = lambda clips: None) -> CueStore:
    """A new store at `path` with every clip of the sources, each from where it is complete (or else failed).

    Clips of the same name are one clip. `advance` is told how many clips each task added.
    """
    _require_same(sources)
    places = choose_places(sources)
    provenance = {**sources[0].provenance, "merged_from": [source.provenance for source in sources]}
    merged = create(path, sources[0].spec, list(places), sources[0].fingerprint, provenance)
    origins = list(places.values())
    for task in merged.pending_tasks():
        with merged.lock_task(task) as writer:
            assert writer is not None
            for position, clip in enumerate(merged.task_clips(task)):
                source, number = origins[clip]
                _copy(sources[source], number, writer, position, clip)
        advance(len(merged.task_clips(task)))
    merged.publish_statuses()
    return merged


def choose_places(sources: Sequence[CueStore]) -> dict[str, Place]:
    """For each clip name, in the order of the sources, where its best copy is."""
    statuses = [source.statuses() for source in sources]
    places: dict[str, Place] = {}
    for number, source in enumerate(sources):
        for clip in range(source.n_clips):
            name = source.clip_id(clip)
            if name not in places or _better(statuses, (number, clip), places[name]):
                places[name] = (number, clip)
    return places


def _copy(source: CueStore, number: int, writer: TaskWriter, position: int, clip: int) -> None:
    record = source.clip_record(number)
    if record.status == FAILED:
        writer.fail(clip, record.reason or "unknown")
    elif record.status == COMPLETE:
        writer.add(position, _whole(source, number, record.digest))


def _whole(source: CueStore, number: int, recorded: int | None) -> EncodedClip:
    task, position = divmod(number, source.spec.shard_clips)
    shards = open_shards(source.files, source.arrays, task, source.spec.shard_clips)
    try:
        chunks = {name: shards[name].clip(position) for name in source.arrays}
    except (KeyError, ChecksumError):
        chunks = {}
    if not chunks or digest(chunks) != recorded:
        raise StoreError(
            f"clip {source.clip_id(number)} is damaged in {source.path}; run `lila-cues verify` and `lila-cues repair` "
            "on that store, and merge into a new place"
        )
    return chunks


def _better(statuses: list[np.ndarray], new: Place, old: Place) -> bool:
    return _RANK[int(statuses[new[0]][new[1]])] < _RANK[int(statuses[old[0]][old[1]])]


def _require_same(sources: Sequence[CueStore]) -> None:
    if len(sources) < 2:
        raise StoreError("a merge takes two stores or more; name the others as well")
    first = sources[0]
    for other in sources[1:]:
        changes = differences(
            {"spec": first.spec.to_dict(), "settings": first.fingerprint},
            {"spec": other.spec.to_dict(), "settings": other.fingerprint},
        )
        if changes:
            raise StoreError(
                f"{other.path} was built with other settings than {first.path}: {'; '.join(changes)}; "
                "merge only stores of the same settings"
            )
