"""An open cue store: its status, task locks for writers, and clips and pairs as numpy arrays."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from stores import encodings, locks, metadata
from stores.atomic import atomic_write, explain_os_errors
from stores.backends import Files, LocalFiles, RemoteFiles
from stores.cues import PairCues
from stores.errors import StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED, STATUS_NAMES, ClipRecord, Ledger, writer_id
from stores.metadata import ClipNames, Header
from stores.shards import ShardReader
from stores.spec import STANDARD_CUES, ArraySpec, arrays
from stores.writer import TaskWriter

Index = SupportsIndex | slice | Sequence[int] | np.ndarray | None
Names = Sequence[str] | None
Numbers = Sequence[int] | None


def open(path: Path | str) -> CueStore:  # called as `stores.open`
    """Open the store in a folder, or at an s3://, gs://, http:// or https:// URL (read-only)."""
    files = RemoteFiles(str(path)) if "://" in str(path) else LocalFiles(Path(path))
    try:
        root = files.read(metadata.ROOT_KEY)
    except FileNotFoundError as error:
        raise StoreError(
            f"no cue store at {files.location}: a folder with {metadata.ROOT_KEY} was expected; "
            "name the folder that `lila-cues build` wrote, or run `lila-cues repair` on it if the file was lost"
        ) from error
    header = metadata.parse_header(root, files.location)
    metadata.require_clip_names(files, header)
    return CueStore(files, header)


class CueStore:
    """An open store. Cheap to open and to pickle: only its path is pickled.

    Attributes:
        path: folder or URL, to be printed.
        address: absolute folder or URL, to be opened: it may hold a signature or a password.
        spec, n_clips, fingerprint, provenance: as in `create`.
        arrays: all arrays but `status`, by name; `cue_names` are those that hold cues.
        n_tasks: rows of shards.
    """

    def __init__(self, files: Files, header: Header) -> None:
        self.files, self.header = files, header
        self.path, self.address = files.location, files.address
        self.spec, self.n_clips = header.spec, header.n_clips
        self.fingerprint, self.provenance = header.fingerprint, header.provenance
        self.arrays: dict[str, ArraySpec] = arrays(header.spec)
        self.cue_names = tuple(name for name, array in self.arrays.items() if array.split)
        self.ledger = Ledger(files, header.n_clips, header.spec.shard_clips)
        self.n_tasks = self.ledger.n_tasks
        self._reader = ShardReader(files, self.arrays, self.ledger)
        self._statuses: np.ndarray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.address,)

    @cached_property
    def clips(self) -> ClipNames:
        return ClipNames(self.files, self.header)

    def clip_id(self, clip: SupportsIndex) -> str:
        return self.clips[_number(clip, self.n_clips, "clip")]

    def task_clips(self, task: int) -> range:
        start = task * self.spec.shard_clips
        return range(start, min(start + self.spec.shard_clips, self.n_clips))

    def shard_keys(self, task: int) -> list[str]:
        return [array.shard_key(task) for array in self.arrays.values()]

    def statuses(self) -> np.ndarray:
        """Return uint8 (n_clips,): 0 absent, 1 complete, 2 failed; read anew at each call."""
        self._statuses = self.ledger.statuses()
        if self._statuses is None:
            self._statuses = metadata.decode_statuses(self.files.read(metadata.STATUS_KEY), self.path)
        return self._statuses

    def complete_clips(self) -> np.ndarray:
        """Return the numbers of the complete clips, ascending."""
        return np.flatnonzero(self.statuses() == COMPLETE)

    def clip_record(self, clip: SupportsIndex) -> ClipRecord:
        """Return status, attempts and reason of failure of one clip."""
        number = _number(clip, self.n_clips, "clip")
        record = self.ledger.latest(number // self.spec.shard_clips)
        if record is None:  # none yet, or a URL whose ledger cannot be listed
            return ClipRecord(int(self.statuses()[number]))
        return record.clips[number % self.spec.shard_clips]

    def pending_tasks(self, only_failed: bool = False) -> Iterator[int]:
        """Yield the tasks with an absent clip, or with `only_failed` those with a failed one."""
        pending = self.statuses() == (FAILED if only_failed else ABSENT)
        yield from np.unique(np.flatnonzero(pending) // self.spec.shard_clips).tolist()

    @contextmanager
    def lock_task(self, task: int, only_failed: bool = False) -> Iterator[TaskWriter | None]:
        """Lock a task for the duration of the context.

        Yields the task's writer, or None if another worker holds the lock (`locked_by`) or no clip is pending. Leaving
        without an exception publishes completed and failed clips; an exception discards them. With `only_failed`, the
        failed clips are pending in place of the absent ones.
        """
        root, pending, writer = self._folder(), FAILED if only_failed else ABSENT, None
        with locks.lock(root / metadata.LOCKS, task) as locked:
            if locked:
                with explain_os_errors(root, f"starting task {task}"):
                    record = self.ledger.latest(task)
                    if pending in ([ABSENT] if record is None else [clip.status for clip in record.clips]):
                        writer = TaskWriter(self, task, record, pending)
            if writer is None:
                yield None
                return
            try:
                yield writer
                writer.publish()
            finally:
                writer.discard()

    def locked_by(self, task: int) -> str | None:
        """Return `host:pid` of the worker that holds a task's lock, or None; of a URL None, since it is only read."""
        return locks.holder(self.files.root / metadata.LOCKS, task) if isinstance(self.files, LocalFiles) else None

    def publish_statuses(self) -> None:
        """Update the array `status` from the ledger, for readers over HTTP and for xarray."""
        root = self._folder()
        data = encodings.with_checksum(self.statuses().tobytes())
        atomic_write(data, root / metadata.STATUS_KEY, root / metadata.SCRATCH / f"status-{writer_id()}")

    def _folder(self) -> Path:
        if not isinstance(self.files, LocalFiles):
            raise StoreError(f"{self.path} is read-only; write to a store in a folder and copy it there")
        self.require_current()
        return self.files.root

    def require_current(self) -> None:
        """Raise StoreError if the store is in a version of the format that is only read."""
        if self.header.version == metadata.VERSION_1:
            raise StoreError(
                f"{self.path} is in version 1 of the format, which is read but neither written nor repaired; "
                f"convert it with `lila-cues merge NEW {self.path}`"
            )

    def read(self, name: str, clip: SupportsIndex, index: Index = None) -> np.ndarray:
        """Return one array of a complete clip, decoded: cues that are not integers as float32, NaN where missing.

        `index` selects frames or pairs: one (that axis is dropped), a slice, or several.
        """
        spec, clip = self._array(name), self._complete(clip)
        index = slice(None) if index is None else index
        try:
            if isinstance(index, bool | np.bool_):
                raise IndexError("one truth value selects nothing")
            selected = np.arange(spec.shape[0])[index]
        except IndexError as error:
            raise StoreError(
                f"expected indices of the {spec.shape[0]} {spec.dimensions[0]}s of {name}, found {index!r} ({error})"
            ) from error
        if not spec.split:
            return np.asarray(encodings.decode(spec.encoding, self._reader.read(name, clip)[0])[selected])
        parts: list[int] = np.atleast_1d(selected).tolist()
        values, scale = self._reader.read(name, clip, parts), f"{name}_scale"
        scales = self._reader.read(scale, clip)[0][parts] if scale in self.arrays else None
        values = encodings.decode(spec.encoding, values, scales)
        return values if np.ndim(selected) else values[0]

    def pair(self, clip: SupportsIndex, pair: SupportsIndex, cues: Names = None, channels: Numbers = None) -> PairCues:
        """Return the named cues (None: all) of one pair of frames, decoded.

        `channels` are positions among the encoder channels that the store keeps; the others are not decoded.
        """
        stored = self.stored_pair(clip, pair, cues, channels)
        decoded: dict[str, Any] = {}
        for name in self.cue_names if cues is None else cues:
            scales = getattr(stored, f"{name}_scale", None)
            decoded[name] = encodings.decode(self.arrays[name].encoding, stored[name], scales)
        extra = {name: decoded.pop(name) for name in stored.extra}
        return replace(stored, features_scale=None, features_raw_scale=None, extra=extra, **decoded)

    def stored_pair(
        self, clip: SupportsIndex, pair: SupportsIndex, cues: Names = None, channels: Numbers = None
    ) -> PairCues:
        """Return the same as `pair` in the types of the store, to be decoded elsewhere."""
        clip, pair = self._complete(clip), _number(pair, self.spec.geometry.pairs, "pair")
        names = self.cue_names if cues is None else cues
        for name in names:
            if name not in self.cue_names:
                raise StoreError(f"{name!r} is not a cue of a pair; choose from {', '.join(self.cue_names)}")
        of_frames = [name for name in names if self.arrays[name].dimensions[0] != "pair"]
        small = ["pair_frames", "pair_gap", *(f"{name}_scale" for name in of_frames if f"{name}_scale" in self.arrays)]
        if any("channel" in self.arrays[name].dimensions for name in names):
            small.append("feature_channels")
        parts = {name: [0] for name in small} | {name: [pair] for name in names if name not in of_frames}
        found = {name: values[0] for name, values in self._reader.read_all(clip, parts, of_frames).items()}
        frames: list[int] = found.pop("pair_frames")[pair].tolist()
        gap = int(found.pop("pair_gap")[pair])
        values = self._reader.read_all(clip, dict.fromkeys(of_frames, frames))
        values |= {name: each[frames] if name.endswith("_scale") else each for name, each in found.items()}
        if channels is not None:
            for name in set(values) - {"feature_channels"}:
                if "channel" in self.arrays[name].dimensions:
                    values[name] = values[name][:, list(channels)]
            if "feature_channels" in values:
                values["feature_channels"] = values["feature_channels"][list(channels)]
        extra = {name: values.pop(name) for name in names if name not in STANDARD_CUES}
        return PairCues(clip=clip, pair=pair, gap=gap, frames=(frames[0], frames[1]), extra=extra, **values)

    def dask(self, name: str) -> Any:
        """Return one array over all clips as a dask array: decoded, lazy, NaN where a clip is not complete."""
        from stores import lazy

        self._array(name)
        return lazy.dask_array(self, name)

    def xarray(self) -> Any:
        """Return all arrays as an xarray dataset of such dask arrays; `dataset.sel(clip=name)` selects by name."""
        from stores import lazy

        return lazy.dataset(self)

    def _array(self, name: str) -> ArraySpec:
        if name not in self.arrays:
            raise StoreError(f"{self.path} has no array {name!r}; it has {', '.join(self.arrays)}")
        return self.arrays[name]

    def _complete(self, clip: SupportsIndex) -> int:
        """Return the number of a complete clip; StoreError for another one."""
        number = _number(clip, self.n_clips, "clip")
        known = self._statuses is not None and self._statuses[number] == COMPLETE
        if not known and (status := int(self.statuses()[number])) != COMPLETE:
            raise StoreError(
                f"clip {number} of {self.path} is {STATUS_NAMES[status]}; read one of `complete_clips()`, or build it "
                "with `lila-cues build`"
            )
        return number


def _number(value: SupportsIndex, count: int, what: str) -> int:
    """Return an index as an int; StoreError for another type, and beyond 0 to count − 1."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise StoreError(f"expected the number of one {what}, found {value!r}; give an integer") from error
    if isinstance(value, bool | np.bool_) or not 0 <= number < count:
        raise StoreError(f"expected a {what} from 0 to {count - 1}, found {value!r}; choose one of those")
    return number
