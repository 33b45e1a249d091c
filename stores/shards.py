"""The encoded bytes of clips: made from cues, or taken from a shard as they are.

The fast reader: a shard's index once, then a read by position and a decompression per chunk, checksums verified.

It works in the calling thread, starts none, and holds no lock, so it is safe after a fork.

A shard file: inner chunks as they come, then the index with its crc32c (`sharding_indexed`, index at the end).

The index holds (offset, length) of each inner chunk as little-endian uint64, both 2⁶⁴ − 1 where there is none.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from stores.backends import Blob, Files
from stores.cues import ClipCues, check_shape
from stores.encodings import CHECKSUM_BYTES, ChecksumError, PerMapInt8, checked, crc32c, decode_into, with_checksum
from stores.errors import StoreError
from stores.spec import ArraySpec

NO_CHUNK = 2**64 - 1
_ENTRY_BYTES = 16


class ShardWriter:
    """Streams the inner chunks of one shard into a new file; `close` adds the index and makes it durable."""

    def __init__(self, path: Path, entries: int) -> None:
        self.path = path
        self._index = np.full((entries, 2), NO_CHUNK, dtype="<u8")
        self._position = 0
        self._fd: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def write(self, entry: int, payload: bytes) -> None:
        """Append one inner chunk."""
        self._append(payload)
        self._index[entry] = (self._position - len(payload), len(payload))

    def close(self) -> int:
        """Write the index, fsync, and give the size of the file in bytes."""
        assert self._fd is not None
        self._append(with_checksum(self._index.tobytes()))
        os.fsync(self._fd)
        self.abandon()
        return self._position

    def abandon(self) -> None:
        """Close the file as it is."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def _append(self, data: bytes) -> None:
        assert self._fd is not None
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._position += written
            view = view[written:]


def index_bytes(entries: int) -> int:
    """Length of the index at the end of a shard."""
    return entries * _ENTRY_BYTES + struct.calcsize("<I")


def parse_index(tail: bytes, file_size: int, entries: int) -> np.ndarray:
    """The index (entries, 2) uint64 from the last bytes of a shard of `file_size` bytes; every chunk lies before it."""
    length = index_bytes(entries)
    if file_size < length or len(tail) < length:
        raise ChecksumError(f"it has {file_size} bytes, too few for its index")
    body = checked(np.frombuffer(tail, np.uint8)[-length:])
    index = np.frombuffer(body.tobytes(), dtype="<u8").reshape(entries, 2)
    kept = index[index[:, 0] != NO_CHUNK]
    if kept.size and int(kept.sum(axis=1, dtype=np.uint64).max()) > file_size - length:
        raise ChecksumError("its index points outside the file")
    return index


EncodedClip = Mapping[str, list[bytes]]  # array → its inner chunks of one clip


def encode_clip(clip_id: str, specs: Mapping[str, ArraySpec], cues: ClipCues) -> EncodedClip:
    """All inner chunks of one clip."""
    values: dict[str, Any] = {name: np.asarray(cues[name]) for name in specs if not name.endswith("_scale")}
    for name, value in values.items():
        check_shape(clip_id, specs[name], value)
    encoded_chunks: dict[str, list[bytes]] = {}
    for name, value in values.items():
        encoding = specs[name].encoding
        if isinstance(encoding, PerMapInt8):
            value, scales = encoding.encode(value)
            encoded_chunks[f"{name}_scale"] = _chunks(specs[f"{name}_scale"], scales)
        else:
            value = encoding.encode(value)
        encoded_chunks[name] = _chunks(specs[name], value)
    return {name: encoded_chunks[name] for name in specs}


@dataclass(frozen=True)
class ShardChunks:
    """An open shard of one array, by clips."""

    blob: Blob
    index: np.ndarray
    clip_chunks: int

    def clip(self, position: int) -> list[bytes]:
        """The inner chunks of one clip, each checked; ChecksumError where one is not whole."""
        wanted = self.index[position * self.clip_chunks : (position + 1) * self.clip_chunks]
        if (wanted[:, 0] == NO_CHUNK).any():
            raise ChecksumError("it lacks a chunk of a complete clip")
        chunks = self.blob.read([(int(offset), int(length)) for offset, length in wanted])
        for chunk in chunks:
            checked(np.frombuffer(chunk, np.uint8))
        return chunks


def open_shard(files: Files, spec: ArraySpec, task: int, shard_clips: int) -> ShardChunks:
    """The shard of an array; FileNotFoundError or ChecksumError where it is missing or its index is damaged."""
    entries = shard_clips * spec.clip_chunks
    blob, tail = files.open(spec.shard_key(task), index_bytes(entries))
    return ShardChunks(blob, parse_index(tail, blob.size, entries), spec.clip_chunks)


def open_shards(files: Files, specs: Mapping[str, ArraySpec], task: int, shard_clips: int) -> dict[str, ShardChunks]:
    """The shards of a task that can be opened."""
    shards = {}
    for name, spec in specs.items():
        with contextlib.suppress(FileNotFoundError, ChecksumError):
            shards[name] = open_shard(files, spec, task, shard_clips)
    return shards


def digest(encoded_chunks: EncodedClip) -> int:
    """crc32c over the checksums of a clip's inner chunks, in the order of the arrays."""
    return crc32c(b"".join(chunk[-CHECKSUM_BYTES:] for chunks in encoded_chunks.values() for chunk in chunks))


def _chunks(spec: ArraySpec, stored: np.ndarray) -> list[bytes]:
    parts = stored if spec.split else [stored]
    return [spec.encoding.codec.encode(np.asarray(part)) for part in parts]


_OPEN_SHARDS = 128  # kept open per thread


class ShardReader:
    """Inner chunks of complete clips, as stored."""

    def __init__(self, files: Files, arrays: Mapping[str, ArraySpec], shard_clips: int) -> None:
        self._files = files
        self.arrays = arrays
        self._shard_clips = shard_clips
        self._local = threading.local()

    def read(self, name: str, clip: int, parts: Sequence[int]) -> np.ndarray:
        """Inner chunks `parts` of a clip (frames or pairs; [0] where the chunk is all of the clip), stacked first."""
        spec = self.arrays[name]
        task, position = divmod(clip, self._shard_clips)
        blob, index = self._shard(spec, task)
        first = position * spec.clip_chunks
        entries = [index[first + part] for part in parts]
        out = np.empty((len(parts), *(spec.shape[1:] if spec.split else spec.shape)), spec.dtype)
        if any(int(entry[0]) == NO_CHUNK for entry in entries):
            raise _damaged(self._files, spec, task, "it lacks a chunk of a complete clip")
        for payload, chunk in zip(blob.read([(int(o), int(n)) for o, n in entries]), out, strict=True):
            try:
                decode_into(np.frombuffer(payload, np.uint8), chunk)
            except ChecksumError as error:
                raise _damaged(self._files, spec, task, f"a chunk of clip {clip}: {error}") from error
        return out

    def _cache(self) -> OrderedDict[tuple[str, int], tuple[Blob, np.ndarray]]:
        if not hasattr(self._local, "shards"):
            self._local.shards = OrderedDict()
        shards: OrderedDict[tuple[str, int], tuple[Blob, np.ndarray]] = self._local.shards
        return shards

    def _shard(self, spec: ArraySpec, task: int) -> tuple[Blob, np.ndarray]:
        cache, at = self._cache(), (spec.name, task)
        if at in cache:
            cache.move_to_end(at)
            return cache[at]
        cache[at] = self._open(spec, task)
        if len(cache) > _OPEN_SHARDS:
            cache.popitem(last=False)
        return cache[at]

    def _open(self, spec: ArraySpec, task: int) -> tuple[Blob, np.ndarray]:
        entries = self._shard_clips * spec.clip_chunks
        try:
            blob, tail = self._files.open(spec.shard_key(task), index_bytes(entries))
            return blob, parse_index(tail, blob.size, entries)
        except FileNotFoundError as error:
            raise _damaged(self._files, spec, task, "it is missing") from error
        except ChecksumError as error:
            raise _damaged(self._files, spec, task, str(error)) from error


def _damaged(files: Files, spec: ArraySpec, task: int, what: str) -> StoreError:
    return StoreError(
        f"the shard {files.location}/{spec.shard_key(task)} is damaged ({what}); "
        "run `lila-cues verify` and then `lila-cues repair` on the store, and build again"
    )
