"""Verify a store against its ledger: documents, records, shards, checksums, and the values of clips."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby
from typing import Any

import numpy as np

from stores import encodings, metadata
from stores.backends import LocalFiles
from stores.cues import ClipCues
from stores.encodings import CHECKSUM_BYTES, ChecksumError, crc32c
from stores.errors import StoreError, UnreadableError
from stores.ledger import ABSENT, COMPLETE, FAILED, Key, TaskRecord, folder, folders
from stores.metadata import LOCKS, NAMES_KEY, ROOT_COPY_KEY, SCRATCH, STATUS_KEY
from stores.shards import EncodedClip, Shard, digest, open_shard
from stores.spec import ArraySpec
from stores.store import CueStore

# Allowed differences of recomputed cues: more than between devices and precisions, far less than between networks,
# frames or clips. Units: see `check_recomputed`.
_ALLOWED = {"rgb": 8.0, "depth": 0.05, "flow_forward": 0.5, "flow_backward": 0.5, "features": 0.1, "features_raw": 0.1}
_EXACT = ("feature_channels", "frame_index", "pair_frames", "pair_gap")


@dataclass(frozen=True)
class Finding:
    """One problem; `clips` are those that have to be built again because of it."""

    kind: str  # document, ledger, shard, chunk, value or unreadable; a note is no damage
    where: str
    what: str
    clips: tuple[int, ...] = ()
    task: int | None = None  # to be repaired, though none of its clips is known to be damaged

    def __str__(self) -> str:
        """Return one line; clips (0, 1, 2, 3, 7) are written as 0-3, 7."""
        runs = [[clip for _, clip in run] for _, run in groupby(enumerate(self.clips), lambda each: each[1] - each[0])]
        clips = ", ".join(f"{run[0]}-{run[-1]}" if run[1:] else str(run[0]) for run in runs)
        return f"{self.kind}: {self.where}: {self.what}" + (f" (clips {clips})" if clips else "")


def tasks_of(findings: Iterable[Finding], store: CueStore) -> list[int]:
    """Return the tasks of some findings, ascending."""
    tasks = {clip // store.spec.shard_clips for finding in findings for clip in finding.clips}
    return sorted(tasks | {finding.task for finding in findings if finding.task is not None})


class Thoroughness(IntEnum):
    """Level of a check of shards: the index, also every inner chunk of complete clips, also their values."""

    INDICES = 0
    CHECKSUMS = 1
    VALUES = 2


def check_documents(store: CueStore) -> Iterator[Finding]:
    """Check every file but shards and records, and the ledger against the array `status`."""
    store.require_current()
    documents = store.header.documents()
    for key in document_keys(store):
        try:
            what = _document_problem(store, key, store.files.read(key), documents.get(key, b""))
        except FileNotFoundError as error:
            what = error.strerror
        except UnreadableError as error:
            yield Finding("unreadable", key, str(error))
            continue
        if what is not None:
            yield Finding("document", key, what)
    yield from _check_places(store, "document", other_keys(store))
    yield from _check_records(store)


def _check_records(store: CueStore) -> Iterator[Finding]:
    """Find tasks whose record was lost: the array `status` has them, or shards without the folder of their records."""
    recorded, published = store.statuses(), published_statuses(store)
    unrecorded = np.unique(np.flatnonzero((published != ABSENT) & (recorded == ABSENT)) // store.spec.shard_clips)
    lost = dict.fromkeys(unrecorded.tolist(), "the array status has it, but the ledger has no record of it")
    if isinstance(store.files, LocalFiles):
        gone = {bucket for bucket in folders(store.n_tasks) if not (store.files.root / bucket).is_dir()}
        shards = (re.match(r"c\.(\d+)\.", name) for name in store.files.names(next(reversed(store.arrays))) or ())
        tasks = [int(shard[1]) for shard in shards if shard] if gone else []
        lost |= {task: f"it has shards, but {folder(task)} is missing" for task in tasks if folder(task) in gone}
    for task, what in lost.items():
        if store.ledger.key(task) is None:
            yield Finding("ledger", f"task {task}", what, task=task)
    if not np.array_equal(published, recorded):
        yield Finding("note", STATUS_KEY, "it is not what the ledger says, as after a build that was stopped")


def published_statuses(store: CueStore) -> np.ndarray:
    """Return the array `status` as it is stored: uint8 (n_clips,), zeros if it is damaged."""
    with contextlib.suppress(StoreError, FileNotFoundError):
        statuses = metadata.decode_statuses(store.files.read(STATUS_KEY), store.path)
        if len(statuses) == store.n_clips:
            return statuses
    return np.zeros(store.n_clips, np.uint8)


def document_keys(store: CueStore) -> list[str]:
    """Return the keys of all files but shards and records that a store is read by."""
    return [*store.header.documents(), ROOT_COPY_KEY, NAMES_KEY, STATUS_KEY]


def other_keys(store: CueStore) -> list[str]:
    """Return the keys of files that are written besides: the lock file, one of `scratch`, one of each ledger folder."""
    return [LOCKS, *(f"{bucket}/file" for bucket in (SCRATCH, *folders(store.n_tasks)))]


def _document_problem(store: CueStore, key: str, data: bytes, expected: bytes) -> str | None:
    header = store.header
    try:
        if key == ROOT_COPY_KEY:
            return None if metadata.parse_header(data, key) == header else "it is the header of another store"
        if key == NAMES_KEY:
            intact = crc32c(data[:-CHECKSUM_BYTES]) == header.names_crc32c == int.from_bytes(data[-4:], "little")
            return None if intact else "it is not the list of clips that zarr.json records"
        if key == STATUS_KEY:
            statuses = metadata.decode_statuses(data, store.path)
            intact = len(statuses) == store.n_clips and statuses.max(initial=0) <= FAILED
            return None if intact else "it is the status of other clips"
        intact = contains(json.loads(data), json.loads(expected))
        return None if intact else "it differs from what the store's own spec defines"
    except StoreError as error:
        return str(error)
    except (ValueError, RecursionError):
        return "it is no JSON document"


def contains(found: Any, expected: Any) -> bool:
    """Return True if a JSON document has all that is expected; it may have more attributes and arrays (of a user)."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(key in found and contains(found[key], expected[key]) for key in expected)
    return bool(found == expected)


def check_task(
    store: CueStore, task: int, level: Thoroughness = Thoroughness.VALUES, listed: Mapping[int, Key] | None = None
) -> Iterator[Finding]:
    """Check the record of a task, its shards, and its complete clips; `listed`: see `Ledger.latest`."""
    try:
        record = store.ledger.latest(task, listed)
    except UnreadableError as error:
        yield Finding("unreadable", f"task {task}", str(error), task=task)
        return
    except StoreError as error:
        yield Finding("ledger", f"task {task}", str(error), task=task)
        return
    n_clips = len(store.task_clips(task))
    if record is None:
        yield from _check_places(store, "shard", store.shard_keys(task), task)
    elif record.fingerprint != store.header.digest:
        yield Finding("ledger", record.key, "it was written with other settings than the store's", task=task)
    elif len(record.clips) != n_clips:
        yield Finding("ledger", record.key, f"it has {len(record.clips)} clips, not the task's {n_clips}", task=task)
    else:
        yield from check_clips(store, record, level)


def _check_places(store: CueStore, kind: str, keys: Iterable[str], task: int | None = None) -> Iterator[Finding]:
    """Check that files can be written, such as the shards of a task without complete clips."""
    for key in keys:
        if (path := store.files.in_the_way(key)) is not None:
            yield Finding(kind, key, f"{path} is in its way", task=task)


def check_clips(store: CueStore, record: TaskRecord, level: Thoroughness) -> Iterator[Finding]:
    """Check the shards of a task and its complete clips."""
    first = store.task_clips(record.task).start
    complete = tuple(first + position for position, clip in enumerate(record.clips) if clip.status == COMPLETE)
    if not complete:
        yield from _check_places(store, "shard", store.shard_keys(record.task), record.task)
        return
    shards: dict[str, Shard] = {}
    for name, spec in store.arrays.items():
        try:
            shards[name] = open_shard(store.files, spec, record.task, store.spec.shard_clips)
        except ChecksumError as error:
            yield Finding("shard", spec.shard_key(record.task), str(error), complete)
        except UnreadableError as error:
            yield Finding("unreadable", spec.shard_key(record.task), str(error), task=record.task)
    by_clip = len(shards) == len(store.arrays) and level >= Thoroughness.CHECKSUMS
    for name, shard in shards.items():
        if record.shard_crc32c.get(name, shard.end_crc32c) != shard.end_crc32c:
            key, clips = store.arrays[name].shard_key(record.task), () if by_clip else complete
            yield Finding("shard", key, "it is not the shard that was recorded", clips, record.task)
    for clip in complete if by_clip else ():
        position, chunks = clip - first, dict[str, list[bytes]]()
        for name, shard in list(shards.items()):
            try:
                chunks[name] = shard.read_clip(position)
            except ChecksumError as error:
                yield Finding("chunk", store.arrays[name].shard_key(record.task), str(error), (clip,))
            except UnreadableError as error:
                yield Finding("unreadable", store.arrays[name].shard_key(record.task), str(error), task=record.task)
                del shards[name]
        if len(chunks) < len(store.arrays):
            continue
        if digest(chunks) != record.clips[position].digest:
            yield Finding("chunk", f"clip {clip}", "its bytes are not those that were recorded", (clip,))
        elif level >= Thoroughness.VALUES:
            for name, problem in wrong_values(store.arrays, chunks):
                yield Finding("value", f"{name} of clip {clip}", problem, (clip,))


def wrong_values(arrays: Mapping[str, ArraySpec], chunks: EncodedClip) -> Iterator[tuple[str, str]]:
    """Decode one clip; yield (array, problem) for each array whose values cannot be right."""
    stored = {name: np.empty(spec.shape, spec.dtype) for name, spec in arrays.items()}
    for name, parts in chunks.items():
        for part, chunk in zip(parts, stored[name] if arrays[name].split else [stored[name]], strict=True):
            arrays[name].encoding.codec.decode_into(part, chunk)
    values: dict[str, np.ndarray] = {}
    for name, spec in arrays.items():
        values[name] = encodings.decode(spec.encoding, stored[name], stored.get(f"{name}_scale"))
        problem = _problem(spec, values[name])
        if problem is not None:
            yield name, problem
    frames = values["frame_index"]
    first, second = values["pair_frames"].T
    valid = first.size and first.min() >= 0 and max(first.max(), second.max()) < len(frames)
    if valid and not np.array_equal(frames[second] - frames[first], values["pair_gap"]):
        yield "pair_gap", "it is not the distance of the pair's frames"


def _problem(spec: ArraySpec, values: np.ndarray) -> str | None:
    finite = np.isfinite(values)
    match spec.name:
        case "depth":
            if (frame := _first_not_finite(values, missing_allowed=True)) is not None:
                return f"frame {frame} has no finite value"
            return "negative inverse depth" if np.nanmin(values) < 0 else None
        case "flow_forward" | "flow_backward":
            if (pair := _first_not_finite(values, missing_allowed=True)) is not None:
                return f"pair {pair} has no finite value"
            limit = 2 * max(spec.shape[-2:])
            return f"motion of more than {limit} px" if np.nanmax(np.abs(values)) > limit else None
        case "features" | "features_raw":
            if (frame := _first_not_finite(values)) is not None:
                return f"frame {frame} has values that are not finite"
            return "a frame of zeros" if (values == 0).all(axis=(-3, -2, -1)).any() else None
        case "features_scale" | "features_raw_scale":
            return None if (finite & (values >= 0)).all() else "scales that are negative or not finite"
        case "frame_index" | "frame_time":
            ascending = (finite & (values >= 0)).all() and (np.diff(values) >= 0).all()
            return None if ascending else "not ascending from zero on"
        case "feature_channels":
            return "negative numbers" if (values < 0).any() else None
        case "pair_frames":
            return "frames that the clip does not have" if (values < 0).any() else None
    low, high = spec.attributes.get("limits", (-np.inf, np.inf))
    error = encodings.error_bound(spec.encoding, np.array([high]))[0] if np.isfinite(high) else 0.0
    within = np.isnan(values) | ((values >= low - error) & (values <= high + error))
    return None if within.all() else f"values beyond {low:g} to {high:g}"


def _first_not_finite(values: np.ndarray, missing_allowed: bool = False) -> int | None:
    """Return the first map along the first axis with NaN or infinity; with `missing_allowed`, with nothing else."""
    finite = np.isfinite(values).reshape(len(values), -1)
    found = np.flatnonzero(~(finite.any(axis=1) if missing_allowed else finite.all(axis=1)))
    return int(found[0]) if len(found) else None


def sample(store: CueStore, count: int, seed: int) -> list[int]:
    """Return up to `count` complete clips at random, ascending."""
    clips = store.complete_clips()
    rng = np.random.Generator(np.random.Philox(key=seed))
    return sorted(rng.choice(clips, min(count, len(clips)), replace=False).tolist())


def check_recomputed(store: CueStore, clip: int, cues: ClipCues) -> Iterator[Finding]:
    """Compare the stored values of a clip with `cues` computed again, by the recorded networks, or in another store.

    99 % of the differences have to be within tolerance: in gray levels for rgb, relative to the frame's median for
    depth, in px for flow, in standard deviations of the map for features, in its own units for an extra cue.
    """
    tolerances = _ALLOWED | {maps.name: maps.tolerance for maps in store.spec.extra} | dict.fromkeys(_EXACT, 0.0)
    for name, tolerance in tolerances.items():
        stored, recomputed = store.read(name, clip), np.asarray(cues[name])
        if name in _EXACT:
            deviation = 0.0 if np.array_equal(stored, recomputed) else np.inf
        elif stored.shape != recomputed.shape or (np.isfinite(stored) != np.isfinite(recomputed)).mean() > 0.01:
            deviation = np.inf
        else:
            stored = stored.astype(np.float32)
            error = np.abs(stored - recomputed.astype(np.float32))
            if name == "depth":
                error /= np.maximum(np.nanmedian(stored, axis=(-2, -1), keepdims=True), 1e-6)
            elif name.startswith("features"):
                error /= np.maximum(np.nanstd(stored, axis=(-2, -1), keepdims=True), 1e-6)
            deviation = float(np.nanquantile(error, 0.99))
        if deviation > tolerance:
            what = f"recomputed, 1 % of it deviates by more than {deviation:.3g} ({tolerance:.3g} is allowed)"
            yield Finding("value", f"{name} of clip {clip}", what, (clip,))
