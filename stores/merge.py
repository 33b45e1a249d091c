"""Merge stores of the same settings that were built on separate machines; inner chunks are copied unchanged.

A single store is copied so as well, which converts one of version 1 of the format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stores.config import differences
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED
from stores.opening import create
from stores.shards import EncodedClip, digest, open_shards, read_clip
from stores.store import CueStore

_RANKED = (COMPLETE, FAILED, ABSENT)  # the best first


def merge(path: Path, sources: Sequence[CueStore], on_task: Callable[[int], None] = lambda n_clips: None) -> CueStore:
    """Create a store at `path` with every clip of the sources, each from the source where it is complete, or failed.

    Clips of the same name are one clip. `on_task` is called after each task with its number of clips.
    """
    first, *others = [{"spec": source.spec.to_dict(), "settings": source.fingerprint} for source in sources]
    for source, settings in zip(sources[1:], others, strict=True):
        if changes := differences(first, settings):
            raise StoreError(
                f"{source.path} was built with other settings than {sources[0].path}: {'; '.join(changes)}; "
                "merge only stores of the same settings"
            )
    best: dict[str, tuple[int, CueStore, int]] = {}  # by clip name: rank, store and number of its best copy
    for source in sources:
        for clip, status in enumerate(source.statuses().tolist()):
            name, rank = source.clip_id(clip), _RANKED.index(status)
            if name not in best or rank < best[name][0]:
                best[name] = (rank, source, clip)
    provenance = {**sources[0].provenance, "merged_from": [source.provenance for source in sources]}
    merged = create(path, sources[0].spec, list(best), sources[0].fingerprint, provenance)
    for task in merged.pending_tasks():
        with merged.lock_task(task) as writer:
            assert writer is not None
            for clip in writer.pending():
                _, source, number = best[merged.clip_id(clip)]
                record = source.clip_record(number)
                if record.status == FAILED:
                    writer.fail(clip, record.reason or "unknown")
                elif record.status == COMPLETE:
                    writer.add(clip, _read_recorded(source, number, record.digest))
        on_task(len(merged.task_clips(task)))
    merged.publish_statuses()
    return merged


def _read_recorded(source: CueStore, clip: int, recorded: int | None) -> EncodedClip:
    task, position = divmod(clip, source.spec.shard_clips)
    shards = open_shards(source.files, source.arrays, task, source.spec.shard_clips)
    chunks = read_clip(shards, source.arrays, position)
    if chunks is None or digest(chunks) != recorded:
        raise StoreError(
            f"clip {source.clip_id(clip)} is damaged in {source.path}; run `lila-cues verify` and `lila-cues repair` "
            "on that store, and merge into a new place"
        )
    return chunks
