"""A shard file: inner chunks as they come, then the index with its crc32c (`sharding_indexed`, index at the end).

The index holds (offset, length) of each inner chunk as little-endian uint64, both 2⁶⁴ − 1 where there is none.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import TracebackType

import numpy as np

from stores.codecs import ChecksumError, checked, with_checksum

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
