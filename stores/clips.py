"""The list of a store's clips in two files, whatever their number: the names, one per line, and where each line begins.

Both are mapped, not read: opening a list of 650,000 costs what opening a list of 100 does.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from stores.codecs import crc32c
from stores.errors import StoreError
from stores.files import Files, LocalFiles

NAMES_KEY = "clips/names.txt"
OFFSETS_KEY = "clips/offsets.npy"


class ClipList:
    """The names of clips by number."""

    def __init__(self, names: bytes | mmap.mmap, offsets: np.ndarray) -> None:
        self._names = names
        self._offsets = offsets

    @classmethod
    def load(cls, files: Files) -> ClipList:
        """Map the list of a local store, read that of a remote one."""
        if isinstance(files, LocalFiles):
            with (files.root / NAMES_KEY).open("rb") as file:
                names = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return cls(names, np.load(files.root / OFFSETS_KEY, mmap_mode="r", allow_pickle=False))
        offsets = np.load(io.BytesIO(files.read(OFFSETS_KEY)), allow_pickle=False)
        return cls(files.read(NAMES_KEY), offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, clip: int) -> str:
        if not 0 <= clip < len(self):
            raise IndexError(clip)
        return self._names[int(self._offsets[clip]) : int(self._offsets[clip + 1]) - 1].decode()

    def find(self, clip_id: str) -> int | None:
        """Number of the clip of this name."""
        line = clip_id.encode() + b"\n"
        start = 0 if self._names[: len(line)] == line else self._names.find(b"\n" + line) + 1
        if start == 0 and self._names[: len(line)] != line:
            return None
        return int(np.searchsorted(self._offsets, start))


def encode(clips: Sequence[str]) -> tuple[bytes, bytes]:
    """The two files; names are unique, not empty, without line breaks."""
    if len(set(clips)) != len(clips):
        seen: set[str] = set()
        twice = next(clip for clip in clips if clip in seen or seen.add(clip))  # type: ignore[func-returns-value]
        raise StoreError(f"clip {twice!r} is listed twice; every clip of a store needs a name of its own")
    bad = next((clip for clip in clips if not clip or "\n" in clip), None)
    if bad is not None:
        raise StoreError(f"{bad!r} cannot name a clip: names are not empty and have no line break; rename the source")
    names = "".join(f"{clip}\n" for clip in clips).encode()
    return names, offsets_of(names)


def offsets_of(names: bytes) -> bytes:
    """The file of offsets that belongs to a file of names."""
    ends = np.flatnonzero(np.frombuffer(names, np.uint8) == ord("\n")) + 1
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate([[0], ends]).astype("<i8"))
    return buffer.getvalue()


def describe(names: bytes, offsets: bytes) -> dict[str, Any]:
    """What the store's attributes say of the two files."""
    return {"names_crc32c": crc32c(names), "offsets_crc32c": crc32c(offsets)}
