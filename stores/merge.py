"""Merge stores of the same settings that were built on separate machines; inner chunks are copied unchanged.

A single store is copied so as well, which converts one of version 1 of the format.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from stores.config import differences
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED
from stores.opening import open_or_create
from stores.shards import EncodedClip, digest, open_shards, read_clip
from stores.store import CueStore


def merge(
    path: Path,
    sources: Sequence[CueStore],
    on_task: Callable[[int], None] = lambda n_clips: None,
    on_damaged: Callable[[str], None] = lambda note: None,
) -> CueStore:
    """Merge into a new store at `path`, or continue a merge of the same sources there.

    Clips of the same name are one clip, copied from the first source that has it complete and undamaged; where none
    has, it is failed or absent, as in the sources.

    Args:
        on_task: called after each task with its number of clips.
        on_damaged: called with a sentence for each damaged copy of a clip.
    """
    first, *others = [{"spec": source.spec.to_dict(), "settings": source.fingerprint} for source in sources]
    for source, settings in zip(sources[1:], others, strict=True):
        if changes := differences(first, settings):
            raise StoreError(
                f"{source.path} was built with other settings than {sources[0].path}: {'; '.join(changes)}; "
                "merge only stores of the same settings"
            )
    copies: dict[str, list[tuple[CueStore, int]]] = defaultdict(list)  # by clip name: store and number, if not absent
    for source in sources:
        for clip, status in enumerate(source.statuses().tolist()):
            found = copies[source.clip_id(clip)]
            if status != ABSENT:
                found.append((source, clip))
    provenance = {**sources[0].provenance, "merged_from": [source.provenance for source in sources]}
    merged = open_or_create(path, sources[0].spec, list(copies), sources[0].fingerprint, provenance)
    for task in merged.pending_tasks():
        with merged.lock_task(task) as writer:
            if writer is None:  # another process merges it
                continue
            for clip in writer.pending():
                failures = []
                for source, number in copies[merged.clip_id(clip)]:
                    record = source.clip_record(number)
                    if record.status == FAILED:
                        failures.append(record.reason or "unknown")
                    elif record.status == COMPLETE:
                        if chunks := _read_recorded(source, number, record.digest):
                            writer.add(clip, chunks)
                            break
                        on_damaged(f"clip {merged.clip_id(clip)} is damaged in {source.path}")
                else:
                    if failures:
                        writer.fail(clip, failures[0])
        on_task(len(merged.task_clips(task)))
    merged.publish_statuses()
    return merged


def _read_recorded(source: CueStore, clip: int, recorded: int | None) -> EncodedClip | None:
    """Return the chunks of a clip as they are stored; None if they are damaged."""
    task, position = divmod(clip, source.spec.shard_clips)
    shards = open_shards(source.files, source.arrays, task, source.spec.shard_clips)
    chunks = read_clip(shards, source.arrays, position)
    return chunks if chunks is not None and digest(chunks) == recorded else None
