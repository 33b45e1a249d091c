"""Verify a store against its ledger: documents, records, shards, checksums, and the values of clips."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from stores import encodings, metadata
from stores.cues import ClipCues, first_not_finite
from stores.encodings import ChecksumError
from stores.errors import StoreError
from stores.ledger import COMPLETE, TaskRecord
from stores.metadata import NAMES_KEY, STATUS_KEY
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

    kind: str  # document, ledger, shard, chunk or value; a note is no damage
    where: str
    what: str
    clips: tuple[int, ...] = ()
    task: int | None = None  # if the ledger itself is damaged

    def __str__(self) -> str:
        """Return one line; clips (0, 1, 2, 3, 7) are written as 0-3, 7."""
        ranges: list[list[int]] = []
        for clip in self.clips:
            if ranges and clip == ranges[-1][1] + 1:
                ranges[-1][1] = clip
            else:
                ranges.append([clip, clip])
        clips = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
        return f"{self.kind}: {self.where}: {self.what}" + (f" (clips {clips})" if clips else "")


class Thoroughness(IntEnum):
    """How much of each shard is verified: its index, every inner chunk of complete clips, and their values."""

    INDICES = 0
    CHECKSUMS = 1
    VALUES = 2


def check_documents(store: CueStore) -> Iterator[Finding]:
    """Check the metadata of group and arrays, the clip list, and `status` against the ledger."""
    store.require_current()
    documents = store.header.documents()
    stored: dict[str, bytes] = {}
    for key in (*documents, STATUS_KEY):
        with contextlib.suppress(FileNotFoundError):
            stored[key] = store.files.read(key)
    for key, expected in documents.items():
        if key not in stored:
            yield Finding("document", key, "it is missing")
        elif stored[key] != expected:
            yield Finding("document", key, "it differs from what the store's own spec defines")
    try:
        metadata.ClipNames(store.files, store.header)
    except StoreError as error:
        yield Finding("document", NAMES_KEY, str(error))
    try:
        statuses = metadata.decode_statuses(stored[STATUS_KEY], store.path) if STATUS_KEY in stored else None
        if statuses is None or not np.array_equal(statuses, store.statuses()):
            yield Finding("note", STATUS_KEY, "it is behind the ledger, as after a build that was stopped")
    except StoreError as error:
        yield Finding("document", STATUS_KEY, str(error))


def check_task(store: CueStore, task: int, level: Thoroughness = Thoroughness.VALUES) -> Iterator[Finding]:
    """Check the record of a task, its shards, and its complete clips."""
    try:
        record = store.ledger.latest(task)
    except StoreError as error:
        yield Finding("ledger", f"task {task}", str(error), task=task)
        return
    if record is None:
        return
    n_clips = len(store.task_clips(task))
    if record.fingerprint != store.header.digest:
        yield Finding("ledger", record.key, "it was written with other settings than the store's", task=task)
    elif len(record.clips) != n_clips:
        what = f"it records {len(record.clips)} clips, the task has {n_clips}"
        yield Finding("ledger", record.key, what, task=task)
    else:
        yield from check_clips(store, record, level)


def check_clips(store: CueStore, record: TaskRecord, level: Thoroughness) -> Iterator[Finding]:
    """Check the shards of a task and its complete clips."""
    first = store.task_clips(record.task).start
    complete = tuple(first + position for position, clip in enumerate(record.clips) if clip.status == COMPLETE)
    if not complete:
        return
    shards: dict[str, Shard] = {}
    for name, spec in store.arrays.items():
        try:
            shards[name] = open_shard(
                store.files, spec, record.task, store.spec.shard_clips, record.shard_crc32c.get(name)
            )
        except ChecksumError as error:
            yield Finding("shard", spec.shard_key(record.task), str(error), complete)
    if len(shards) < len(store.arrays) or level < Thoroughness.CHECKSUMS:
        return
    for clip in complete:
        position, chunks = clip - first, dict[str, list[bytes]]()
        for name, shard in shards.items():
            try:
                chunks[name] = shard.read_clip(position)
            except ChecksumError as error:
                yield Finding("chunk", store.arrays[name].shard_key(record.task), str(error), (clip,))
        if len(chunks) < len(shards):
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
            if (frame := first_not_finite(values, missing_allowed=True)) is not None:
                return f"frame {frame} has no finite value"
            return "negative inverse depth" if np.nanmin(values) < 0 else None
        case "flow_forward" | "flow_backward":
            if (pair := first_not_finite(values, missing_allowed=True)) is not None:
                return f"pair {pair} has no finite value"
            limit = 2 * max(spec.shape[-2:])
            return f"motion of more than {limit} px" if np.nanmax(np.abs(values)) > limit else None
        case "features" | "features_raw":
            if (frame := first_not_finite(values)) is not None:
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


def sample(store: CueStore, count: int, seed: int) -> list[int]:
    """Return up to `count` complete clips at random, ascending."""
    clips = store.complete_clips()
    rng = np.random.Generator(np.random.Philox(key=seed))
    return sorted(rng.choice(clips, min(count, len(clips)), replace=False).tolist())


def check_recomputed(store: CueStore, clip: int, recompute: Callable[[CueStore, int], ClipCues]) -> Iterator[Finding]:
    """Compute a clip again with the recorded networks and compare it with what is stored.

    99 % of the differences have to be within tolerance: in gray levels for rgb, relative to the frame's median for
    depth, in px for flow, in standard deviations of the map for features, in its own units for an extra cue.
    """
    cues = recompute(store, clip)
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
