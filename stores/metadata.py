"""The list of a store's clips in two files, whatever their number: the names, one per line, and where each line begins.

Both are mapped, not read: opening a list of 650,000 costs what opening a list of 100 does.

Names within a store, and the document at its root. Pure but for `parse`'s complaints.

zarr.json            of the group; attributes: format version, spec, fingerprint, provenance; all arrays' metadata
NAME/c.TASK.0…       one shard
status/c.0           statuses of all clips, for readers that cannot list the ledger
ledger/, clips/      see their modules;   claims   see `claims`;   scratch/TASK/   shards being written
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stores import atomic
from stores.backends import Files, LocalFiles
from stores.encodings import ChecksumError, checked, crc32c
from stores.errors import StoreError
from stores.spec import FORMAT, VERSION, StoreSpec, arrays

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


def encode_names(clips: Sequence[str]) -> tuple[bytes, bytes]:
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


ROOT_KEY = "zarr.json"
ROOT_COPY_KEY = "clips/header.json"
STATUS_KEY = "status/c.0"
CLAIMS = "claims"
SCRATCH = "scratch"
_ATTRIBUTE = "lila"


@dataclass(frozen=True)
class Header:
    """What the attributes at the root say."""

    spec: StoreSpec
    n_clips: int
    clip_checksums: dict[str, int]  # crc32c of the two files of clip names
    fingerprint: dict[str, Any]  # what shaped the data, besides the spec
    provenance: dict[str, Any]  # whatever else is worth knowing

    @property
    def digest(self) -> str:
        """Of everything that shaped the data; each ledger record carries it."""
        shaped = {"version": VERSION, "spec": self.spec.to_dict(), "fingerprint": self.fingerprint}
        return hashlib.sha256(atomic.canonical(shaped)).hexdigest()

    def documents(self) -> dict[str, dict[str, Any]]:
        """Every `zarr.json` of the store, by key."""
        members = {
            name: array.metadata(self.n_clips, self.spec.shard_clips) for name, array in arrays(self.spec).items()
        }
        members["status"] = _status_metadata(self.n_clips)
        body = {
            "format": FORMAT,
            "version": VERSION,
            "spec": self.spec.to_dict(),
            "clips": {"count": self.n_clips, **self.clip_checksums},
            "fingerprint": self.fingerprint,
            "provenance": self.provenance,
        }
        attributes = {_ATTRIBUTE: {**body, "crc32c": crc32c(atomic.canonical(body))}}
        consolidated = {"kind": "inline", "must_understand": False, "metadata": members}
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": attributes,
            "consolidated_metadata": consolidated,
        }
        return {ROOT_KEY: root, **{f"{name}/{ROOT_KEY}": document for name, document in members.items()}}


def parse(data: bytes, location: str) -> Header:
    """The header of the store at `location` from its root document."""
    try:
        body = json.loads(data)["attributes"][_ATTRIBUTE]
        form, version = body["format"], body["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{location} is not a cue store, or its zarr.json is damaged: it has no attribute {_ATTRIBUTE!r}; "
            "name a folder that `lila-cues build` wrote, or run `lila-cues repair` on it"
        ) from error
    if form != FORMAT or version != VERSION:
        raise StoreError(
            f"{location} is in format {form} version {version}, this program reads {FORMAT} version {VERSION}; "
            + ("update lila-pixels" if isinstance(version, int) and version > VERSION else "build the store again")
        )
    return _parse_body(body, location)


def encode_document(document: dict[str, Any]) -> bytes:
    """A `zarr.json` as it is written."""
    return json.dumps(document, indent=1).encode()


def decode_statuses(data: bytes, location: str) -> np.ndarray:
    """uint8 (n_clips,) from the one chunk of the array `status`."""
    try:
        return checked(np.frombuffer(data, np.uint8))
    except ChecksumError as error:
        raise StoreError(
            f"{location}/{STATUS_KEY} is damaged ({error}); run `lila-cues repair` on the store, which writes it anew"
        ) from error


def _parse_body(body: dict[str, Any], location: str) -> Header:
    try:
        expected = {key: value for key, value in body.items() if key != "crc32c"}
        if crc32c(atomic.canonical(expected)) != body["crc32c"]:
            raise ValueError("their checksum does not agree")
        checksums = {key: value for key, value in body["clips"].items() if key != "count"}
        spec = StoreSpec.from_dict(body["spec"])
        return Header(spec, body["clips"]["count"], checksums, body["fingerprint"], body["provenance"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"the attributes in {location}/zarr.json are damaged ({error}); "
            "run `lila-cues repair` on it, which puts back the copy that every store keeps"
        ) from error


def _status_metadata(n_clips: int) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n_clips],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [n_clips]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}, {"name": "crc32c"}],
        "dimension_names": ["clip"],
        "attributes": {"flag_values": [0, 1, 2], "flag_meanings": "absent complete failed"},
        "storage_transformers": [],
    }
