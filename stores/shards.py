"""Shard files: encode the cues of a clip, write shards, and read single chunks from them.

A shard file holds inner chunks in any order, the crc32c over their checksums, and the index with its crc32c (Zarr codec
`sharding_indexed`, index at the end): (offset, length) of each inner chunk as little-endian uint64, both 2⁶⁴ − 1 where
there is none. The task's record holds the crc32c of content checksum and index, which identifies the shard.

The reader works in the calling thread, starts none, and holds no lock, so it is safe after a fork.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stores.atomic import write_all
from stores.backends import Blob, Files, LocalFiles
from stores.cues import ClipCues
from stores.encodings import CHECKSUM_BYTES, ChecksumError, crc32c, encode, verified, with_checksum
from stores.errors import StoreError
from stores.ledger import Ledger
from stores.spec import ArraySpec

NO_CHUNK = 2**64 - 1
OPEN_SHARDS = max(8, min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))  # of a process, all its threads
_REQUESTS = 16  # to a server at once
_SMALL_BYTES = 1024  # of a clip: arrays up to this size are read for all clips of a task at once, and kept

EncodedClip = Mapping[str, list[bytes]]  # array → its inner chunks of one clip


def stored_values(specs: Mapping[str, ArraySpec], cues: ClipCues) -> dict[str, Any]:
    """Return the stored form of a clip's cues before compression: arrays, or tensors where the cues are tensors."""
    stored: dict[str, Any] = {}
    for name, spec in specs.items():
        if not name.endswith("_scale"):  # encoded with the array that it scales
            stored[name], scales = encode(spec.encoding, cues[name])
            if scales is not None:
                stored[f"{name}_scale"] = scales
    return stored


def encode_clip(clip_id: str, specs: Mapping[str, ArraySpec], stored: Mapping[str, np.ndarray]) -> EncodedClip:
    """Return all inner chunks of one clip's `stored_values`; StoreError if one has another shape than declared."""
    for name, spec in specs.items():
        if stored[name].shape != spec.shape:
            raise StoreError(
                f"{name} of clip {clip_id} has shape {stored[name].shape}, but this store keeps {spec.shape} "
                f"({' '.join(spec.dimensions)}); build into a store that was created for these sizes"
            )
    return {
        name: [spec.encoding.codec.encode(part) for part in (stored[name] if spec.split else [stored[name]])]
        for name, spec in specs.items()
    }


def digest(chunks: EncodedClip) -> int:
    """Return the crc32c over the checksums of a clip's inner chunks, in the order of the arrays."""
    return crc32c(b"".join(chunk[-CHECKSUM_BYTES:] for parts in chunks.values() for chunk in parts))


class ShardWriter:
    """Streams the inner chunks of one shard into a new file."""

    def __init__(self, path: Path, shard_clips: int, clip_chunks: int) -> None:
        self.file = path.open("xb", buffering=0)
        self._index = np.full((shard_clips, clip_chunks, 2), NO_CHUNK, dtype="<u8")
        self._size = 0
        self._checksums = bytearray()  # of the chunks as written

    def write(self, position: int, chunks: Sequence[bytes]) -> None:
        """Append all inner chunks of the clip at a position."""
        for part, chunk in enumerate(chunks):
            self._index[position, part] = self._size, len(chunk)
            write_all(self.file.fileno(), chunk)
            self._size += len(chunk)
            self._checksums += chunk[-CHECKSUM_BYTES:]

    def finish(self) -> tuple[int, int]:
        """Append the index, sync and close the file; return its size in bytes, and the checksum of its end."""
        content, index = crc32c(bytes(self._checksums)).to_bytes(CHECKSUM_BYTES, "little"), self._index.tobytes()
        end = content + with_checksum(index)
        write_all(self.file.fileno(), end)
        os.fsync(self.file.fileno())
        self.file.close()
        return self._size + len(end), crc32c(content + index)


@dataclass(frozen=True)
class Shard:
    """An open shard of one array."""

    blob: Blob
    index: np.ndarray  # uint64 (entries, 2): offset and length
    clip_chunks: int
    end_crc32c: int  # of content checksum and index

    def read(self, position: int, parts: Sequence[int]) -> list[bytes]:
        """Return the inner chunks `parts` of the clip at a position; ChecksumError if one is not there."""
        first = position * self.clip_chunks
        entries: list[list[int]] = self.index[[first + part for part in parts]].tolist()
        if any(offset == NO_CHUNK for offset, _ in entries):
            raise ChecksumError("a chunk of a complete clip is missing")
        return self.blob.read([(offset, length) for offset, length in entries]) if entries else []

    def read_clip(self, position: int) -> list[bytes]:
        """Return all inner chunks of a clip; ChecksumError if one is damaged."""
        chunks = self.read(position, range(self.clip_chunks))
        for chunk in chunks:
            verified(chunk)
        return chunks


def open_shard(files: Files, spec: ArraySpec, task: int, shard_clips: int, recorded: int | None = None) -> Shard:
    """Open the shard of an array; ChecksumError if it is missing, or has a damaged index or not the `recorded` one."""
    entries = shard_clips * spec.clip_chunks
    length = entries * 16 + CHECKSUM_BYTES  # of the index
    try:
        blob, tail = files.open(spec.shard_key(task), CHECKSUM_BYTES + length)
    except FileNotFoundError as error:
        raise ChecksumError(error.strerror) from error
    if blob.size < length or len(tail) < length:
        raise ChecksumError(f"it has {blob.size} bytes, too few for its index")
    index = verified(tail[-length:]).view("<u8").reshape(entries, 2)
    present = index[index[:, 0] != NO_CHUNK]
    if present.size and int(present.sum(axis=1, dtype=np.uint64).max()) > blob.size - length:
        raise ChecksumError("its index points outside the file")
    end_crc32c = crc32c(tail[:-CHECKSUM_BYTES])
    if recorded not in (None, end_crc32c):
        raise ChecksumError("it is not the shard that was recorded")
    return Shard(blob, index, spec.clip_chunks, end_crc32c)


def open_shards(files: Files, specs: Mapping[str, ArraySpec], task: int, shard_clips: int) -> dict[str, Shard]:
    """Open those shards of a task that are there and have an intact index."""
    shards = {}
    for name, spec in specs.items():
        with contextlib.suppress(ChecksumError):
            shards[name] = open_shard(files, spec, task, shard_clips)
    return shards


def read_clip(shards: Mapping[str, Shard], specs: Mapping[str, ArraySpec], position: int) -> EncodedClip | None:
    """Return all inner chunks of a clip from the shards of its task; None if one is missing or damaged."""
    try:
        return {name: shards[name].read_clip(position) for name in specs}
    except (KeyError, ChecksumError):
        return None


@lru_cache(OPEN_SHARDS)
def _opened(files: Files, spec: ArraySpec, task: int, shard_clips: int, recorded: int | None, _reopened: int) -> Shard:
    return open_shard(files, spec, task, shard_clips, recorded)


@lru_cache(1)
def _threads(process: int) -> ThreadPoolExecutor:
    """Return threads for requests to a server, which do not survive a fork."""
    return ThreadPoolExecutor(_REQUESTS, "requests")


class ShardReader:
    """Reads inner chunks of complete clips as stored, every checksum verified, in any number of threads.

    The shards that a process used last stay open. Small arrays are decoded once for all clips of a task, and kept.
    """

    def __init__(self, files: Files, arrays: Mapping[str, ArraySpec], ledger: Ledger) -> None:
        self._files = files
        self._arrays = arrays
        self._ledger = ledger
        self._shard_clips = ledger.shard_clips
        self._recorded: dict[int, np.ndarray] = {}  # of a task, `Shard.end_crc32c` by array; -1 if there is none
        self._reopened: Counter[tuple[str, int]] = Counter()
        self._small = {  # values, and of which clips they are there; pages that nothing is written to take no memory
            name: (np.zeros((ledger.n_clips, *spec.shape), spec.dtype), np.zeros(ledger.n_clips, np.bool_))
            for name, spec in arrays.items()
            if not spec.split and spec.clip_bytes <= _SMALL_BYTES
        }

    def read(self, name: str, clip: int, parts: Sequence[int] = (0,)) -> np.ndarray:
        """Return the inner chunks `parts` of a clip (frames or pairs; 0 if the chunk is the entire clip), stacked."""
        spec, task = self._arrays[name], clip // self._shard_clips
        read = self._read_small if name in self._small else self._read_chunks
        try:
            try:
                return read(spec, clip, parts)
            except ChecksumError:  # perhaps in a shard that another process has replaced since it was opened here
                self._reopened[name, task] += 1
                self._recorded.pop(task, None)
                return read(spec, clip, parts)
        except ChecksumError as error:
            raise StoreError(
                f"the shard {self._files.location}/{spec.shard_key(task)} is damaged (clip {clip}: {error}); "
                "run `lila-cues verify` and then `lila-cues repair` on the store, and build again"
            ) from error

    def read_all(
        self, clip: int, parts: Mapping[str, Sequence[int]], next_arrays: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Return `read` of several arrays of a clip; from a URL by requests side by side.

        Meanwhile the shards of `next_arrays`, which are to be read next, are opened.
        """
        if isinstance(self._files, LocalFiles):
            return {name: self.read(name, clip, each) for name, each in parts.items()}
        self._checksum(next(iter(self._arrays)), clip // self._shard_clips)  # read once, not in every thread
        requests = [*parts.items(), *((name, ()) for name in next_arrays)]
        results = _threads(os.getpid()).map(lambda request: self.read(request[0], clip, request[1]), requests)
        return dict(zip(parts, list(results), strict=False))

    def _read_chunks(self, spec: ArraySpec, clip: int, parts: Sequence[int]) -> np.ndarray:
        task, position = divmod(clip, self._shard_clips)
        opened = self._reopened[spec.name, task]
        shard = _opened(self._files, spec, task, self._shard_clips, self._checksum(spec.name, task), opened)
        out = np.empty((len(parts), *(spec.shape[1:] if spec.split else spec.shape)), spec.dtype)
        for encoded, chunk in zip(shard.read(position, parts), out, strict=True):
            spec.encoding.codec.decode_into(encoded, chunk)
        return out

    def _read_small(self, spec: ArraySpec, clip: int, parts: Sequence[int]) -> np.ndarray:
        values, known = self._small[spec.name]
        if not known[clip]:
            task, position = divmod(clip, self._shard_clips)
            shard = open_shard(self._files, spec, task, self._shard_clips, self._checksum(spec.name, task))
            spec.encoding.codec.decode_into(shard.read(position, parts)[0], values[clip])
            present = np.flatnonzero(shard.index[:, 0] != NO_CHUNK)
            chunks = shard.blob.read([(offset, length) for offset, length in shard.index[present].tolist()])
            for other, encoded in zip(present, chunks, strict=True):
                with contextlib.suppress(ChecksumError):  # of another clip
                    spec.encoding.codec.decode_into(encoded, values[clip - position + other])
                    known[clip - position + other] = True
        return values[clip : clip + 1].copy()

    def _checksum(self, name: str, task: int) -> int | None:
        """Return the recorded checksum of a shard; None of version 1, and over HTTP, where no ledger can be listed."""
        if task not in self._recorded:
            record = self._ledger.latest(task)
            known = record.shard_crc32c if record else {}
            self._recorded[task] = np.array([known.get(name, -1) for name in self._arrays])
        recorded = int(self._recorded[task][list(self._arrays).index(name)])
        return None if recorded < 0 else recorded
