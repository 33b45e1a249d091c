"""Read access to a store's files: in a local folder, or below an s3://, gs://, http:// or https:// URL.

Remote files are read by ranges, with the credentials of the environment.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stores.errors import StoreError, UnreadableError, first_line, os_reason

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_VARIABLE, RETRY_SECONDS = "LILA_RETRY_SECONDS", 120.0
SCHEMES = ("s3", "gs", "http", "https")
Range = tuple[int, int]  # offset, length
_NO_FILE = {
    errno.ENOENT: "it is missing",
    errno.ENOTDIR: "its folder is a file",
    errno.ELOOP: "a loop of links is in its place",
    errno.ENXIO: "a socket is in its place",
}
_SMALL_FILE = 32 * 1024  # bytes; read at once and kept in memory
_WHOLE_FILE = 16 * 2**20  # bytes; read at once from a server without byte ranges
_LONGEST_PAUSE = 15.0  # s between two requests
_REFUSED = re.compile(r"status code: 4(?!08|29)\d\d")  # what stays so, unlike 408 and 429
_CLIENT: Any = {"connect_timeout": "5s", "timeout": "60s", "allow_http": True}


@dataclass(frozen=True)
class Blob:
    """One file, open for reading; closed when it is garbage collected."""

    size: int
    read: Callable[[Sequence[Range]], list[bytes]]  # the bytes of each range, fewer where the file ends


def _in_memory(data: bytes) -> Blob:
    return Blob(len(data), lambda ranges: [data[offset : offset + length] for offset, length in ranges])


def _unreadable(path: str, error: OSError) -> UnreadableError:
    return UnreadableError(
        f"{path} cannot be read ({os_reason(error)}); make it readable for this user, or "
        "if the disk is faulty delete it, and run `lila-cues repair` on the store"
    )


class LocalFiles:
    """The files in a folder, by key such as `rgb/c.0.0.0.0.0`.

    FileNotFoundError, with the reason as `strerror`, if there is no file or something else is in its place.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.location = root.absolute(), str(root)  # a process may change its directory
        self.address = str(self.root)

    def read(self, key: str) -> bytes:
        with os.fdopen(self.descriptor(key), "rb", buffering=0) as file:
            try:
                return file.readall()
            except OSError as error:
                raise _unreadable(f"{self.root}/{key}", error) from error

    def descriptor(self, key: str) -> int:
        path = f"{self.root}/{key}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would block
        except OSError as error:
            if error.errno in _NO_FILE:
                raise FileNotFoundError(error.errno, _NO_FILE[error.errno], path) from error
            raise _unreadable(path, error) from error
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
        file = _OpenFile(fd, f"{self.root}/{key}")
        if size > _SMALL_FILE:
            return Blob(size, file.read), file.read([(max(0, size - tail), tail)])[0]
        (data,) = file.read([(0, size)])
        return _in_memory(data), data[-tail:]

    def in_the_way(self, key: str) -> Path | None:
        """Return what stands at a file's path, or in place of one of its folders, so that it cannot be written."""
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
                f"the folder {self.root}/{folder} cannot be read ({os_reason(error)}); make it readable for this user"
            ) from error


@dataclass
class _OpenFile:
    """Reads by position only, so that forked processes can share it."""

    fd: int
    path: str

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        try:
            return [os.pread(self.fd, length, offset) for offset, length in ranges]
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def __del__(self) -> None:
        os.close(self.fd)


class RemoteFiles:
    """The objects below a URL, with the methods of LocalFiles; `objects`: an obstore store (default: of the URL).

    A request that the network or the server fails in passing is repeated for `RETRY_VARIABLE` seconds, with a warning
    each. `location` is the URL without the secrets that it may hold: a query that signs it, a password.
    """

    def __init__(self, url: str, objects: Any = None) -> None:
        self.address, self.objects, self._process = url.rstrip("/"), objects, os.getpid()
        self.location = public(self.address)
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
            self.objects = from_url(self.address, client_options=_CLIENT, retry_config={"max_retries": 0})
        except (BaseError, ValueError) as error:
            raise StoreError(f"{self.location} is not a valid address ({_reason(error)}); correct it") from error

    def read(self, key: str) -> bytes:
        return self._request(key, lambda obstore: bytes(obstore.get(self.objects, key).bytes()))

    mapped = read

    def open(self, key: str, tail: int) -> tuple[Blob, bytes]:
        def end_of_file(obstore: Any) -> tuple[int, bytes]:  # one request for the size and the tail, or a small file
            try:
                answer = obstore.get(self.objects, key, options={"range": {"suffix": max(tail, _SMALL_FILE)}})
            except obstore.exceptions.NotSupportedError:  # the server knows no byte ranges
                answer = obstore.get(self.objects, key)
                if answer.meta["size"] > _WHOLE_FILE:
                    raise UnreadableError(
                        f"the server of {self.location}/{key} gives no byte ranges, without which a file of more than "
                        f"{_WHOLE_FILE // 2**20} MiB is not read; serve the store by another one, or copy it"
                    ) from None
            return answer.meta["size"], bytes(answer.bytes())

        def read(ranges: Sequence[Range]) -> list[bytes]:
            starts, lengths = zip(*ranges, strict=True)  # adjacent ranges in one request
            return self._request(
                key,
                lambda obstore: list(map(bytes, obstore.get_ranges(self.objects, key, starts=starts, lengths=lengths))),
            )

        size, data = self._request(key, end_of_file)
        return (_in_memory(data) if len(data) == size else Blob(size, read)), data[-tail:]

    def in_the_way(self, key: str) -> None:
        """Return None: an object store has no folders."""

    def names(self, folder: str) -> list[str] | None:
        if self.location.startswith("http"):  # HTTP has no listing
            return None

        def listed(obstore: Any) -> list[str] | None:
            try:
                entries = obstore.list_with_delimiter(self.objects, f"{folder}/")["objects"]
            except obstore.exceptions.BaseError as error:
                if "status code: 403" not in str(error):  # the user may read, but not list
                    raise
                return None
            return [entry["path"].rsplit("/", 1)[-1] for entry in entries]

        return self._request(folder, listed)

    def _request(self, key: str, request: Callable[[Any], T]) -> T:
        """Return the result of `request`, which is given the obstore module; translate its errors."""
        import obstore

        if os.getpid() != self._process:
            raise StoreError(
                f"{self.location} was opened before this process was forked, and a connection cannot be shared; "
                "start loader processes with `forkserver` or `spawn`, or open the store in each"
            )
        limit, pause = float(os.environ.get(RETRY_VARIABLE, RETRY_SECONDS)), 0.5
        end = time.monotonic() + limit
        while True:
            try:
                return request(obstore)
            except (obstore.exceptions.NotFoundError, FileNotFoundError) as error:
                raise FileNotFoundError(errno.ENOENT, _NO_FILE[errno.ENOENT], f"{self.location}/{key}") from error
            except obstore.exceptions.BaseError as error:
                found = f"{self.location}/{key} cannot be read ({_reason(error)})"
                passing = type(error) is obstore.exceptions.GenericError and not _REFUSED.search(str(error))
                if not passing or time.monotonic() >= end:
                    waited = f" for {limit:g} s (--retry-seconds)" if passing else ""
                    raise UnreadableError(
                        f"{found}{waited}; check the address, the network, and the credentials in the environment"
                    ) from error
            log.warning("%s; trying again in %g s, for %g s in all", found, pause, limit)
            time.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause = min(2 * pause, _LONGEST_PAUSE)


def public(text: str) -> str:
    """Return a text without the secrets in its URLs: their queries, which may sign them, names and passwords."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", re.sub(r"(?<=\w)\?[^\s)\"']*", "", text))


def _reason(error: Exception) -> str:
    line = first_line(error).rstrip(": ")
    return public(line.rpartition(" - ")[2])[:200]  # after "Error performing GET URL in 1ms - "


Files = LocalFiles | RemoteFiles
