"""The cues of one pair of frames, as stored and decoded.

A cue store: what it says of itself, what is in it, and its clips and pairs as numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stores import atomic, lazy, ledger, locks, metadata
from stores.backends import Files, LocalFiles
from stores.cues import PairCues
from stores.encodings import PerMapInt8, with_checksum
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED, STATUS_NAMES, ClipRecord, Ledger
from stores.metadata import ClipList, Header
from stores.shards import ShardReader
from stores.spec import STANDARD_CUES, ArraySpec, StoreSpec, arrays, cue_names
from stores.writer import TaskWriter


def read_stored(
    reader: ShardReader, clip: int, pair: int, cues: Sequence[str], channels: Sequence[int] | None
) -> PairCues:
    """The named cues of a pair in the types of the store; of the encoder's channels, those at these positions."""
    frames = reader.read("pair_frames", clip, [0])[0][pair].tolist()
    gap = int(reader.read("pair_gap", clip, [0])[0][pair])
    kept = slice(None) if channels is None else list(channels)
    values: dict[str, np.ndarray] = {}
    for name in cues:
        spec = _cue(reader.arrays, name)
        of_pair = spec.dimensions[0] == "pair"
        stored = reader.read(name, clip, [pair] if of_pair else frames)
        values[name] = stored[0] if of_pair else stored[:, kept] if "channel" in spec.dimensions else stored
        if isinstance(spec.encoding, PerMapInt8):
            values[f"{name}_scale"] = reader.read(f"{name}_scale", clip, [0])[0][frames][:, kept]
    if any("channel" in reader.arrays[name].dimensions for name in cues):
        values["feature_channels"] = reader.read("feature_channels", clip, [0])[0][kept]
    extra = {name: values.pop(name) for name in cues if name not in STANDARD_CUES}
    return PairCues(clip=clip, pair=pair, gap=gap, frames=(frames[0], frames[1]), extra=extra, **values)


def decode(arrays: Mapping[str, ArraySpec], stored: PairCues, cues: Sequence[str]) -> PairCues:
    """The pair with those cues, which it has, as float32 (rgb as uint8), NaN where missing; without their scales."""
    decoded: dict[str, Any] = {}
    for name in cues:
        encoding = arrays[name].encoding
        if isinstance(encoding, PerMapInt8):
            decoded[name] = encoding.decode(stored[name], stored[f"{name}_scale"])
        else:
            decoded[name] = encoding.decode(stored[name])
    extra = {name: decoded.pop(name) for name in stored.extra}
    return replace(stored, features_scale=None, features_raw_scale=None, extra=extra, **decoded)


def _cue(arrays: Mapping[str, ArraySpec], name: str) -> ArraySpec:
    cues = [cue for cue, spec in arrays.items() if spec.split]
    if name not in cues:
        raise StoreError(f"{name!r} is no cue of a pair; take some of {', '.join(cues)}")
    return arrays[name]


Index = int | slice | Sequence[int] | None


class CueStore:
    """An open store. Cheap to open and to pickle: it travels as its path and is opened again where it arrives."""

    def __init__(self, files: Files, header: Header) -> None:
        self.files = files
        self.header = header
        self.arrays: dict[str, ArraySpec] = arrays(header.spec)
        self.ledger = Ledger(files, header.n_clips, header.spec.shard_clips)
        self._reader = ShardReader(files, self.arrays, header.spec.shard_clips)
        self._statuses: np.ndarray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        from stores.opening import open as reopen

        place = self.files.root.absolute() if isinstance(self.files, LocalFiles) else self.path
        return reopen, (place,)

    def __repr__(self) -> str:
        return f"CueStore({self.path!r}, {self.n_clips} clips)"

    @property
    def path(self) -> str:
        """Folder or URL."""
        return self.files.location

    @property
    def spec(self) -> StoreSpec:
        """Sizes and encodings."""
        return self.header.spec

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that shaped the data, as `create` was given it."""
        return self.header.fingerprint

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the data come from, as `create` was given it."""
        return self.header.provenance

    @property
    def n_clips(self) -> int:
        """Clips that the store declares, whatever their status."""
        return self.header.n_clips

    @property
    def n_tasks(self) -> int:
        """Shard rows."""
        return self.ledger.n_tasks

    @cached_property
    def clips(self) -> ClipList:
        """The names of the clips."""
        return ClipList.load(self.files)

    def clip_id(self, clip: int) -> str:
        """Name of a clip."""
        return self.clips[clip]

    def task_clips(self, task: int) -> range:
        """Clips of a task."""
        start = task * self.spec.shard_clips
        return range(start, min(start + self.spec.shard_clips, self.n_clips))

    # What is there

    def statuses(self) -> np.ndarray:
        """uint8 (n_clips,): 0 absent, 1 complete, 2 failed; as it is now."""
        self._statuses = self.ledger.statuses()
        if self._statuses is None:
            self._statuses = metadata.decode_statuses(self.files.read(metadata.STATUS_KEY), self.path)
        return self._statuses

    def complete_clips(self) -> np.ndarray:
        """Numbers of the complete clips, ascending."""
        return np.flatnonzero(self.statuses() == COMPLETE)

    def clip_record(self, clip: int) -> ClipRecord:
        """Status, attempts and reason of one clip."""
        record = self.ledger.latest(clip // self.spec.shard_clips)
        if record is None:  # none yet, or a place whose ledger cannot be listed
            return ClipRecord(int(self.statuses()[clip]))
        return record.clips[clip % self.spec.shard_clips]

    def pending_tasks(self, only_failed: bool = False) -> Iterator[int]:
        """Tasks with a clip to do: an absent one, or with `only_failed` one that failed."""
        wanted = self.statuses() == (FAILED if only_failed else ABSENT)
        yield from np.unique(np.flatnonzero(wanted) // self.spec.shard_clips).tolist()

    # Writing

    @contextmanager
    def lock_task(self, task: int, only_failed: bool = False) -> Iterator[TaskWriter | None]:
        """Hold a task and give its writer; None if another worker has it (`claimed_by`) or nothing is pending in it.

        Leaving without an exception publishes what was completed and failed; leaving by one discards it. With
        `only_failed`, clips that failed before count as pending, in place of the absent ones.
        """
        root = self._folder()
        with ExitStack() as stack:
            with atomic.writing(root, f"claiming task {task}"):
                held = stack.enter_context(locks.hold(root / metadata.CLAIMS, task))
                writer = self._writer(task, only_failed) if held else None
            if writer is None:
                yield None
                return
            try:
                yield writer
            except BaseException:
                writer.discard()
                raise
            writer.publish()

    def claimed_by(self, task: int) -> str | None:
        """`host:pid` of the worker that has the task now."""
        return locks.holder(self._folder() / metadata.CLAIMS, task)

    def publish_statuses(self) -> None:
        """Bring the array `status` up to the ledger, for readers over HTTP and for xarray."""
        root = self._folder()
        (root / metadata.SCRATCH).mkdir(exist_ok=True)
        with atomic.writing(root, "recording the statuses"):
            scratch = root / metadata.SCRATCH / f"status-{ledger.signature()}"
            atomic.publish(with_checksum(self.statuses().tobytes()), root / metadata.STATUS_KEY, scratch)

    # Reading

    def read(self, name: str, clip: int, index: Index = None) -> np.ndarray:
        """One array of a complete clip, decoded (float32 and NaN where missing, for cues that are not integers).

        `index` picks frames or pairs: one (that axis is dropped), a slice, or several.
        """
        spec = self._array(name)
        self._require(clip)
        if not spec.split:
            whole = self._decode(name, clip, self._reader.read(name, clip, [0])[0], slice(None))
            return whole if index is None else np.asarray(whole[index])
        parts = _parts(index, spec.shape[0])
        values = self._decode(name, clip, self._reader.read(name, clip, parts), parts)
        return values[0] if isinstance(index, int) else values

    @property
    def cue_names(self) -> tuple[str, ...]:
        """The arrays that hold cues."""
        return cue_names(self.spec)

    def pair(
        self, clip: int, pair: int, cues: Sequence[str] | None = None, channels: Sequence[int] | None = None
    ) -> PairCues:
        """The named cues (None: all) of one pair of frames, decoded.

        `channels` are positions among the encoder channels that the store keeps; the others are not decoded.
        """
        named = self.cue_names if cues is None else cues
        return decode(self.arrays, self.stored_pair(clip, pair, named, channels), named)

    def stored_pair(
        self, clip: int, pair: int, cues: Sequence[str] | None = None, channels: Sequence[int] | None = None
    ) -> PairCues:
        """The same as it is stored, for who decodes elsewhere."""
        self._require(clip)
        named = self.cue_names if cues is None else cues
        return read_stored(self._reader, clip, pair, named, channels)

    def missing_arrays(self, names: Sequence[str]) -> list[str]:
        """Those arrays that have no file at all, as in a store that was copied in part."""
        return [name for name in names if self.files.names(name) == []]

    def dask(self, name: str) -> Any:
        """One array over all clips as a dask array: decoded, lazy, NaN where a clip is not complete."""
        self._array(name)
        return lazy.dask_array(self, name)

    def zarr_store(self) -> Any:
        """What `zarr.open_group` and `xarray.open_zarr` take, wherever the store is."""
        return self.files.zarr_store()

    def xarray(self) -> Any:
        """Everything as an xarray dataset of such arrays."""
        return lazy.dataset(self)

    def _decode(self, name: str, clip: int, stored: np.ndarray, parts: Any) -> np.ndarray:
        encoding = self.arrays[name].encoding
        if isinstance(encoding, PerMapInt8):
            return encoding.decode(stored, self._reader.read(f"{name}_scale", clip, [0])[0][parts])
        return encoding.decode(stored)

    def _array(self, name: str) -> ArraySpec:
        if name not in self.arrays:
            raise StoreError(f"{self.path} has no array {name!r}; it has {', '.join(self.arrays)}")
        return self.arrays[name]

    def _require(self, clip: int) -> None:
        if not 0 <= clip < self.n_clips:
            raise StoreError(
                f"clip {clip} is not in {self.path}, which has clips 0 to {self.n_clips - 1}; take one of those"
            )
        if self._statuses is None or self._statuses[clip] != COMPLETE:
            status = int(self.statuses()[clip])
            if status != COMPLETE:
                raise StoreError(
                    f"clip {clip} of {self.path} is {STATUS_NAMES[status]}; read one of `complete_clips()`, "
                    "or build it with `lila-cues build`"
                )

    def _writer(self, task: int, only_failed: bool) -> TaskWriter | None:
        clips = self.task_clips(task)
        before = self.ledger.latest(task)
        records = (ClipRecord(ABSENT),) * len(clips) if before is None else before.clips
        wanted = FAILED if only_failed else ABSENT
        if all(record.status != wanted for record in records):
            return None
        writer = TaskWriter(self._folder(), self.header, clips, [self.clip_id(clip) for clip in clips], before)
        writer.open(wanted)
        return writer

    def _folder(self) -> Path:
        if not isinstance(self.files, LocalFiles):
            raise StoreError(f"{self.path} is read-only here; write to a store in a folder and copy it there")
        return self.files.root


def _parts(index: Index, length: int) -> list[int]:
    """The frames or pairs that an index picks; negative ones count from the end."""
    everything = range(length)
    if index is None or isinstance(index, slice):
        return list(everything[index or slice(None)])
    return [everything[part] for part in ([index] if isinstance(index, int) else index)]
