"""Classification of errors: a clip's own file, a file system that may recover, or the GPU of this process."""

from __future__ import annotations

import errno
import os
from concurrent.futures import CancelledError
from pathlib import Path

from lila_cues.datasets import Dataset
from stores.errors import LilaError, os_reason

MAX_REASON = 400  # characters
TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EDQUOT", "ENOTCONN", "ENOLINK", "ENODEV",
        "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ECONNRESET", "EREMOTEIO", "EKEYEXPIRED",
    )
    if hasattr(errno, name)
)  # fmt: skip
AMBIGUOUS = frozenset({errno.EIO, errno.ENOMEM})  # FFmpeg also reports these of damaged files
_READ_BYTES = 1 << 24


class DeviceLost(LilaError):
    """A GPU on which this process can run nothing any more."""


class TransientError(LilaError):
    """The file system fails, which is no fault of a clip; the same task may succeed later or elsewhere."""


def failure_reason(error: BaseException) -> str:
    """Return the reason that the ledger records for an unreadable clip; raise errors that are not the file's fault."""
    if isinstance(error, LilaError) and not isinstance(error, TransientError):
        return str(error)
    if not isinstance(error, Exception) or isinstance(error, CancelledError | MemoryError | TransientError):
        raise error
    return f"{type(error).__name__}: {error}"[:MAX_REASON]


def transient_reason(
    error: BaseException, dataset: Dataset, clip_id: str, depth: Path | None = None, last: bool = True
) -> str | None:
    """Return why a clip cannot be read if the file system fails, None if its own file is at fault.

    The folders of the data set and of depth maps must be there, and the system must be able to read the clip's file
    to its end: decoders report a failing disk as a file that is cut short. Where that is not clear, the file is at
    fault at the `last` attempt only.
    """
    place: Path | None = dataset.root
    try:
        with os.scandir(dataset.root) as entries:
            if next(entries, None) is None:
                return f"{dataset.root} is empty"
        if (place := depth) is not None:
            os.scandir(depth).close()
        place = None
        if (path := dataset.path(clip_id)).is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(_READ_BYTES):
                    pass
    except LilaError:
        return None
    except OSError as found:
        if place is not None or found.errno in TRANSIENT:
            return f"{found.filename or place or clip_id}: {os_reason(found)}"
    cause: BaseException | None = error
    while cause is not None:
        code = getattr(cause, "errno", None)
        if isinstance(code, int) and code in TRANSIENT:
            decoded = type(cause).__module__.startswith("av.")
            return None if last and decoded and code in AMBIGUOUS else f"{clip_id}: {os.strerror(code).lower()}"
        cause = cause.__cause__ or cause.__context__
    return None
