"""Where the bytes of a store are read from: a folder of this machine (here) or a URL (`stores.remote`)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Range = tuple[int, int]  # offset, length
_SMALL_FILE = 32 * 1024  # read in one go and kept


class Blob(ABC):
    """One file, open for reading; released when nobody holds it any more."""

    size: int

    @abstractmethod
    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range; shorter where the file ends."""


class Files(ABC):
    """A tree of files by key (`rgb/c.0.0.0.0.0`)."""

    location: str

    @abstractmethod
    def read(self, key: str) -> bytes:
        """A whole file; FileNotFoundError where there is none."""

    @abstractmethod
    def open(self, key: str, tail: int) -> tuple[Blob, bytes]:
        """A file, and its last `tail` bytes (fewer if it is shorter); FileNotFoundError where there is none."""

    @abstractmethod
    def names(self, folder: str) -> list[str] | None:
        """Names in a folder, empty where there is none; None where names cannot be listed."""

    @abstractmethod
    def zarr_store(self) -> Any:
        """What `zarr.open_group` and `xarray.open_zarr` take."""


class LocalFiles(Files):
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def read(self, key: str) -> bytes:
        """A whole file."""
        return (self.root / key).read_bytes()

    def open(self, key: str, tail: int) -> tuple[Blob, bytes]:
        """A file and its last bytes; a small file is read at once."""
        fd = os.open(f"{self.location}/{key}", os.O_RDONLY)
        size = os.fstat(fd).st_size
        if size > _SMALL_FILE:
            return _OpenFile(fd, size), os.pread(fd, tail, max(0, size - tail))
        try:
            data = os.pread(fd, size, 0)
        finally:
            os.close(fd)
        return _Bytes(data), data[-tail:]

    def names(self, folder: str) -> list[str]:
        """Names in a folder."""
        try:
            return os.listdir(self.root / folder)
        except FileNotFoundError:
            return []

    def zarr_store(self) -> str:
        """The folder."""
        return self.location


class _OpenFile(Blob):
    """Reads by position only, so that processes forked from this one may share it."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self._fd = fd

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        return [os.pread(self._fd, length, offset) for offset, length in ranges]

    def __del__(self) -> None:
        os.close(self._fd)


class _Bytes(Blob):
    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        return [self._data[offset : offset + length] for offset, length in ranges]
