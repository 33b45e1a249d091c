"""How far cues that were computed again lie from those that are stored.

What the values of a clip may be. Each check tells what is wrong in a phrase, or nothing.

Is the store what its ledger says? Documents, ledger, shards, checksums, values: one finding for each thing wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from stores import metadata
from stores.cues import ClipCues
from stores.encodings import ChecksumError, PerMapInt8, crc32c, decode_into
from stores.errors import StoreError
from stores.ledger import COMPLETE, TaskRecord
from stores.metadata import NAMES_KEY, OFFSETS_KEY
from stores.shards import EncodedClip, ShardChunks, digest, open_shard
from stores.spec import ArraySpec
from stores.store import CueStore

# Networks differ between devices and precisions by less than this; another network, frame or clip by far more.
_ALLOWED = {"rgb": 8.0, "depth": 0.05, "flow_forward": 0.5, "flow_backward": 0.5, "features": 0.1, "features_raw": 0.1}
_EXACT = ("feature_channels", "frame_index", "pair_frames", "pair_gap")


def deviations(store: CueStore, clip: int, cues: ClipCues) -> Iterator[tuple[str, float, float]]:
    """(array, what 99 % of the values stay below, what is allowed) for each array of a clip.

    In grey levels for rgb, relative to the frame's median for depth, in px for flow, in the deviation of the map for
    features, in its own units for an extra cue; 0 or infinite for what has to be the same.
    """
    allowed = _ALLOWED | {maps.name: maps.tolerance for maps in store.spec.extra}
    for name in store.cue_names:
        stored, again = store.read(name, clip).astype(np.float32), np.asarray(cues[name], np.float32)
        yield name, _far(name, stored, again, isinstance(store.arrays[name].encoding, PerMapInt8)), allowed[name]
    for name in _EXACT:
        same = np.array_equal(store.read(name, clip), cues[name])
        yield name, 0.0 if same else np.inf, 0.0


def _far(name: str, stored: np.ndarray, again: np.ndarray, in_rows: bool) -> float:
    if stored.shape != again.shape or (np.isfinite(stored) != np.isfinite(again)).mean() > 0.01:
        return np.inf
    error = np.abs(stored - again)
    if name == "depth":
        error /= np.maximum(np.nanmedian(stored, axis=(-2, -1), keepdims=True), 1e-6)
    if in_rows or name.startswith("features"):
        error /= np.maximum(np.nanstd(stored, axis=(-2, -1), keepdims=True), 1e-6)
    return float(np.nanquantile(error, 0.99))


Check = Callable[[np.ndarray, ArraySpec], str | None]


def wrong_values(arrays: Mapping[str, ArraySpec], values: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """(array, phrase) for each decoded array of one clip that cannot be right."""
    for name, value in values.items():
        phrase = _CHECKS.get(name, _within_limits)(value, arrays[name])
        if phrase is not None:
            yield name, phrase
    frames = values["frame_index"]
    first, second = values["pair_frames"].T
    if first.size and first.min() >= 0 and max(first.max(), second.max()) < len(frames):
        gaps = frames[second] - frames[first]
        if not np.array_equal(gaps, values["pair_gap"]):
            yield "pair_gap", "it is not the distance of the pair's frames"


def _within_limits(values: np.ndarray, spec: ArraySpec) -> str | None:
    low, high = spec.attributes.get("limits", (-np.inf, np.inf))
    step = spec.encoding.error_bound(np.array([high]))[0] if np.isfinite(high) else 0.0
    if (np.isnan(values) | ((values >= low - step) & (values <= high + step))).all():
        return None
    return f"values beyond {low:g} to {high:g}"


def _depth(values: np.ndarray, spec: ArraySpec) -> str | None:
    if not np.isfinite(values).any(axis=(-2, -1)).all():
        return "a frame has no finite value"
    return "negative inverse depth" if np.nanmin(values) < 0 else None


def _flow(values: np.ndarray, spec: ArraySpec) -> str | None:
    if not np.isfinite(values).any(axis=(-3, -2, -1)).all():
        return "a pair has no finite value"
    far = 2 * max(spec.shape[-2:])
    return f"motion of more than {far} px" if np.nanmax(np.abs(values)) > far else None


def _features(values: np.ndarray, spec: ArraySpec) -> str | None:
    if not np.isfinite(values).all():
        return "values that are not finite"
    return "a frame of zeros" if (values == 0).all(axis=(-3, -2, -1)).any() else None


def _scale(values: np.ndarray, spec: ArraySpec) -> str | None:
    return None if (np.isfinite(values) & (values >= 0)).all() else "scales that are negative or not finite"


def _ascending(values: np.ndarray, spec: ArraySpec) -> str | None:
    good = np.isfinite(values).all() and (values >= 0).all() and (np.diff(values) >= 0).all()
    return None if good else "not ascending from zero on"


def _not_negative(values: np.ndarray, spec: ArraySpec) -> str | None:
    return "negative numbers" if (values < 0).any() else None


def _frames(values: np.ndarray, spec: ArraySpec) -> str | None:
    return "frames that the clip does not have" if (values < 0).any() else None


_CHECKS: dict[str, Check] = {
    "depth": _depth,
    "flow_forward": _flow,
    "flow_backward": _flow,
    "features": _features,
    "features_raw": _features,
    "features_scale": _scale,
    "features_raw_scale": _scale,
    "frame_index": _ascending,
    "frame_time": _ascending,
    "feature_channels": _not_negative,
    "pair_frames": _frames,
}


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
        expected = metadata.encode_document(document)
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
            shards[name] = open_shard(store.files, spec, record.task, store.spec.shard_clips)
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
    if digest(chunks) != record.clips[position].digest:
        yield Finding("chunk", f"clip {clip}", "its bytes are not those that were recorded", (clip,))
    elif look_at >= Thoroughness.VALUES:
        for name, phrase in wrong_values(store.arrays, _decoded(store.arrays, chunks)):
            yield Finding("value", f"{name} of clip {clip}", phrase, (clip,))


def _decoded(arrays: Mapping[str, ArraySpec], chunks: EncodedClip) -> dict[str, np.ndarray]:
    stored = {name: _stack(arrays[name], parts) for name, parts in chunks.items()}
    decoded = {}
    for name, values in stored.items():
        encoding = arrays[name].encoding
        scales = stored.get(f"{name}_scale")
        decoded[name] = encoding.decode(values, scales) if isinstance(encoding, PerMapInt8) else encoding.decode(values)  # type: ignore[arg-type]
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
    data = _read(store, metadata.STATUS_KEY)
    try:
        if data is None or not np.array_equal(metadata.decode_statuses(data, store.path), store.statuses()):
            yield Finding("note", metadata.STATUS_KEY, "it is behind the ledger, as after a build that was stopped")
    except StoreError as error:
        yield Finding("document", metadata.STATUS_KEY, str(error))


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
