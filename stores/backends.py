"""Read access to a store's files: in a local folder, or below an s3://, gs://, http:// or https:// URL.

Remote files are read by ranges, with the credentials of the environment.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from stores.errors import StoreError, UnreadableError

SCHEMES = ("s3", "gs", "http", "https")
Range = tuple[int, int]  # offset, length
_NO_FILE = {
    errno.ENOENT: "it is missing",
    errno.ENOTDIR: "its folder is a file",
    errno.ELOOP: "a loop of links is in its place",
    errno.ENXIO: "a socket is in its place",
}
_SMALL_FILE = 32 * 1024  # bytes; read at once and kept in memory
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
_CLIENT: Any = {"connect_timeout": "5s", "timeout": "60s", "allow_http": True}


@dataclass(frozen=True)
class Blob:
    """One file, open for reading; closed when it is garbage collected."""

    size: int
    read: Callable[[Sequence[Range]], list[bytes]]  # the bytes of each range, fewer where the file ends


class LocalFiles:
    """The files in a folder, by key such as `rgb/c.0.0.0.0.0`.

    FileNotFoundError, with the reason as `strerror`, if there is no file or something else is in its place.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.location = root.absolute(), str(root)  # a process may change its directory

    def read(self, key: str) -> bytes:
        with os.fdopen(self.descriptor(key), "rb", buffering=0) as file:
            return file.readall()

    def descriptor(self, key: str) -> int:
        """Open a file for reading and return its descriptor."""
        path = f"{self.root}/{key}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would block
        except OSError as error:
            if error.errno in _NO_FILE:
                raise FileNotFoundError(error.errno, _NO_FILE[error.errno], path) from error
            raise UnreadableError(
                f"{path} cannot be read ({(error.strerror or 'refused').lower()}); make it readable for this user, or "
                "if the disk is faulty delete it, and run `lila-cues repair` on the store"
            ) from error
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            os.close(fd)
            found = "a folder" if stat.S_ISDIR(mode) else "a FIFO or a device"
            raise FileNotFoundError(errno.ENOENT, f"{found} is in its place", path)
        return fd

    def mapped(self, key: str) -> bytes | mmap.mmap:
        """Return a file as a buffer, memory-mapped."""
        with os.fdopen(self.descriptor(key), "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.fstat(file.fileno()).st_size else b""

    def open(self, key: str, tail: int) -> tuple[Blob, bytes]:
        """Open a file; return it and its last `tail` bytes, fewer if it is shorter."""
        fd = self.descriptor(key)
        size = os.fstat(fd).st_size
        if size > _SMALL_FILE:
            return Blob(size, _OpenFile(fd).read), os.pread(fd, tail, max(0, size - tail))
        try:
            data = os.pread(fd, size, 0)
        finally:
            os.close(fd)
        return Blob(size, lambda ranges: [data[offset : offset + length] for offset, length in ranges]), data[-tail:]

    def in_the_way(self, key: str) -> Path | None:
        """Return what prevents that a file is written: something else in its place, or a file in that of its folder."""
        for part in (*reversed(Path(key).parents), Path(key)):
            path = self.root / part
            if os.path.lexists(path) and not (path.is_file() if part == Path(key) else path.is_dir()):
                return path
        return None

    def names(self, folder: str) -> list[str] | None:
        """Return the names in a folder, empty if there is no such folder; None if names cannot be listed."""
        try:
            return os.listdir(self.root / folder)
        except OSError as error:
            if not self.root.is_dir():
                raise StoreError(
                    f"the store {self.root} is gone since it was opened; open it where it is now"
                ) from error
            if error.errno in _NO_FILE:
                return []
            raise UnreadableError(
                f"the folder {self.root}/{folder} cannot be read ({(error.strerror or 'refused').lower()}); "
                "make it readable for this user"
            ) from error


@dataclass
class _OpenFile:
    """Reads by position only, so that forked processes can share it."""

    fd: int

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        return [os.pread(self.fd, length, offset) for offset, length in ranges]

    def __del__(self) -> None:
        os.close(self.fd)


class RemoteFiles:
    """The objects below a URL, with the methods of LocalFiles; `objects`: an obstore store (default: of the URL)."""

    def __init__(self, url: str, objects: Any = None) -> None:
        self.location, self.objects, self._process = url.rstrip("/"), objects, os.getpid()
        if objects is not None:
            return
        scheme = url.partition(":")[0]
        if scheme not in SCHEMES:
            raise StoreError(
                f"{self.location} has the scheme {scheme!r}; a store is a folder or one of {', '.join(SCHEMES)}"
            )
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        try:
            self.objects = from_url(self.location, client_options=_CLIENT, retry_config=_RETRIES)
        except (BaseError, ValueError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise StoreError(f"{self.location} is not a valid address ({reason}); correct it") from error

    def read(self, key: str) -> bytes:
        with self._request(key) as obstore:
            return bytes(obstore.get(self.objects, key).bytes())

    mapped = read

    def open(self, key: str, tail: int) -> tuple[Blob, bytes]:
        def read(ranges: Sequence[Range]) -> list[bytes]:
            with self._request(key) as obstore:  # adjacent ranges in one request
                starts, lengths = zip(*ranges, strict=True)
                return [bytes(part) for part in obstore.get_ranges(self.objects, key, starts=starts, lengths=lengths)]

        with self._request(key) as obstore:  # one request for the size and the tail
            answer = obstore.get(self.objects, key, options={"range": {"suffix": tail}})
            return Blob(answer.meta["size"], read), bytes(answer.bytes())

    def in_the_way(self, key: str) -> None:
        """Return None: an object store has no folders."""

    def names(self, folder: str) -> list[str] | None:
        if self.location.startswith("http"):  # HTTP has no listing
            return None
        with self._request(folder) as obstore:
            listed = obstore.list_with_delimiter(self.objects, f"{folder}/")
            return [entry["path"].rsplit("/", 1)[-1] for entry in listed["objects"]]

    @contextmanager
    def _request(self, key: str) -> Iterator[Any]:
        """Yield the obstore module; translate its errors."""
        import obstore

        if os.getpid() != self._process:
            raise StoreError(
                f"{self.location} was opened before this process was forked, and a connection cannot be shared; "
                "start loader processes with `forkserver` or `spawn`, or open the store in each"
            )
        try:
            yield obstore
        except (obstore.exceptions.NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(errno.ENOENT, _NO_FILE[errno.ENOENT], f"{self.location}/{key}") from error
        except obstore.exceptions.BaseError as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise UnreadableError(
                f"{self.location}/{key} cannot be read ({reason}); check the address, the network, "
                "and the credentials in the environment"
            ) from error


Files = LocalFiles | RemoteFiles
