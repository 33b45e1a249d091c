"""Where the bytes of a store are read from: a folder of this machine (here) or a URL (`stores.backends`).

Reading a store from s3://, gs://, http:// or https://, by ranges; credentials are those of the environment.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from stores.errors import StoreError

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


SCHEMES = ("s3", "gs", "http", "https")
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
_CLIENT: Any = {"connect_timeout": "5s", "timeout": "60s", "allow_http": True}


class RemoteFiles(Files):
    """A tree of objects below a URL."""

    def __init__(self, url: str, objects: Any = None) -> None:
        self.location = url.rstrip("/")
        self._listable = not self.location.startswith("http")
        self._objects = connect(self.location) if objects is None else objects
        self._process = os.getpid()

    def read(self, key: str) -> bytes:
        """A whole object."""
        with self._asking(key) as obstore:
            return bytes(obstore.get(self._objects, key).bytes())

    def open(self, key: str, tail: int) -> tuple[Blob, bytes]:
        """An object and its last bytes, in one request."""
        with self._asking(key) as obstore:
            answer = obstore.get(self._objects, key, options={"range": {"suffix": tail}})
            size: int = answer.meta["size"]
            return _Object(self, key, size), bytes(answer.bytes())

    def names(self, folder: str) -> list[str] | None:
        """Names below a prefix; None over HTTP, which cannot list."""
        if not self._listable:
            return None
        with self._asking(folder) as obstore:
            listed = obstore.list_with_delimiter(self._objects, f"{folder}/")
            return [entry["path"].rsplit("/", 1)[-1] for entry in listed["objects"]]

    def zarr_store(self) -> Any:
        """A read-only zarr store."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._objects, read_only=True)

    def ranges(self, key: str, ranges: Sequence[Range]) -> list[bytes]:
        """Several ranges of an object, neighbours in one request."""
        with self._asking(key) as obstore:
            starts, lengths = zip(*ranges, strict=True)
            return [bytes(part) for part in obstore.get_ranges(self._objects, key, starts=starts, lengths=lengths)]

    @contextmanager
    def _asking(self, key: str) -> Iterator[Any]:
        import obstore

        if os.getpid() != self._process:
            raise StoreError(
                f"{self.location} was opened before this process was forked, and a connection cannot be shared; "
                "start loader processes with `forkserver` or `spawn`, or open the store in each"
            )
        try:
            yield obstore
        except (obstore.exceptions.NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(f"{self.location}/{key}") from error
        except obstore.exceptions.BaseError as error:
            raise StoreError(
                f"{self.location}/{key} cannot be read ({_first_line(error)}); check the address, the network, "
                "and the credentials in the environment"
            ) from error


class _Object(Blob):
    def __init__(self, files: RemoteFiles, key: str, size: int) -> None:
        self.size = size
        self._files = files
        self._key = key

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        return self._files.ranges(self._key, ranges)


def connect(url: str) -> Any:
    """An object store rooted at `url`."""
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise StoreError(f"{url} has the scheme {scheme!r}; a store is a folder or one of {', '.join(SCHEMES)}")
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    try:
        return from_url(url, client_options=_CLIENT, retry_config=_RETRIES)
    except (BaseError, ValueError) as error:
        raise StoreError(f"{url} is not a usable address ({_first_line(error)}); correct it") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
