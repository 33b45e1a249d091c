"""Merge stores of the same settings that were built on separate machines; inner chunks are copied unchanged.

A single store is copied so as well, which converts one of version 1 of the format.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from stores.config import differences
from stores.cues import ClipCues
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED, ClipRecord, TaskRecord
from stores.opening import open_or_create
from stores.shards import OPEN_SHARDS, Shard, digest, open_shards, read_clip
from stores.store import CueStore
from stores.verify import Finding, check_recomputed
from stores.writer import TaskWriter

Copies = dict[bytes, list[tuple[int, int]]]  # by clip name: source and clip of each copy that is not absent


def merge(
    path: Path,
    sources: Sequence[CueStore],
    on_task: Callable[[int], None] = lambda n_clips: None,
    on_damaged: Callable[[str], None] = lambda note: None,
    run: Callable[[Callable[[int], int], Iterable[int]], Iterable[int]] = map,
) -> CueStore:
    """Merge into a new store at `path`, or continue a merge of the same sources there.

    Clips of the same name are one clip, copied from the first source that has it complete and undamaged; where none
    has, it is failed or absent, as in the sources.

    Args:
        on_task: called after each task with its number of clips.
        on_damaged: called with a sentence for each damaged copy of a clip.
        run: merges the tasks like `map`, perhaps in threads.

    Raises:
        StoreError: other settings, or clips of the same name and other contents.
    """
    first, *others = [{"spec": source.spec.to_dict(), "settings": source.fingerprint} for source in sources]
    for source, settings in zip(sources[1:], others, strict=True):
        if changes := differences(settings, first):
            raise StoreError(
                f"{source.path} was built with other settings than {sources[0].path}: {'; '.join(changes)}; "
                "merge only stores of the same settings"
            )
    listed = [source.ledger.keys() for source in sources]
    shard_clips = sources[0].spec.shard_clips

    @lru_cache(1024)
    def record(number: int, task: int) -> TaskRecord | None:
        return sources[number].ledger.latest(task, listed[number])

    def entry(number: int, clip: int) -> ClipRecord:
        found = record(number, clip // shard_clips)
        return ClipRecord(ABSENT) if found is None else found.clips[clip % shard_clips]

    @lru_cache(max(2, OPEN_SHARDS // len(sources[0].arrays)))
    def shards(number: int, task: int) -> dict[str, Shard]:
        return open_shards(sources[number].files, sources[number].arrays, task, shard_clips)

    copies = find_copies(sources)
    for name, found in copies.items():
        if len(found) > 1:
            entries = [(sources[number], clip, entry(number, clip)) for number, clip in found]
            complete = [(source, clip, each.digest) for source, clip, each in entries if each.status == COMPLETE]
            _require_same(name.decode(), complete)
    provenance = {**sources[0].provenance, "merged_from": [source.provenance for source in sources]}
    names = [name.decode() for name in copies]
    merged = open_or_create(path, sources[0].spec, names, sources[0].fingerprint, provenance)
    del names

    def merge_clip(writer: TaskWriter, clip: int) -> None:
        name, reasons = merged.clip_id(clip), list[str]()
        for number, copy in copies[name.encode()]:
            recorded = entry(number, copy)
            if recorded.status == FAILED:
                reasons.append(recorded.reason or "unknown")
            elif recorded.status == COMPLETE:
                task, position = divmod(copy, shard_clips)
                chunks = read_clip(shards(number, task), merged.arrays, position)
                if chunks is not None and digest(chunks) == recorded.digest:
                    writer.add(clip, chunks)
                    return
                on_damaged(f"clip {name} is damaged in {sources[number].path}")
        if reasons:
            writer.fail(clip, reasons[0])

    def merge_task(task: int) -> int:
        with merged.lock_task(task) as writer:
            if writer is not None:  # else another process merges it
                for clip in writer.pending():
                    merge_clip(writer, clip)
        return len(merged.task_clips(task))

    for n_clips in run(merge_task, merged.pending_tasks()):
        on_task(n_clips)
    merged.publish_statuses()
    return merged


def find_copies(sources: Sequence[CueStore]) -> Copies:
    """Return where the clips are, in the order of the sources."""
    copies: Copies = {}
    for number, source in enumerate(sources):
        names = source.clips.encoded.tolist()
        for clip, (name, status) in enumerate(zip(names, source.statuses().tolist(), strict=True)):
            found = copies.setdefault(name, [])
            if status != ABSENT:
                found.append((number, clip))
    return copies


def _require_same(name: str, copies: Sequence[tuple[CueStore, int, int | None]]) -> None:
    """Raise StoreError if complete copies of a clip, each with its digest, differ by more than a device's rounding.

    Unreadable copies are skipped here; the merge reports them as damaged.
    """
    for source, other, checksum in copies[1:]:
        first, clip, recorded = copies[0]
        findings: list[Finding] = []
        if checksum != recorded:
            with contextlib.suppress(StoreError):
                values = {name: source.read(name, other) for name in source.arrays if not name.endswith("_scale")}
                extra = {maps.name: values.pop(maps.name) for maps in source.spec.extra}
                findings = list(check_recomputed(first, clip, ClipCues(**values, extra=extra)))
        if findings:
            raise StoreError(
                f"clip {name} of {source.path} is another one than that of {first.path} ({findings[0].where} differs); "
                "rename one of the two videos and build its clip again, or keep the stores apart"
            )
