"""The files of a store besides shards and ledger: the root document, the statuses, and the list of clips.

zarr.json       of the group; attributes: format version, spec, fingerprint, provenance; metadata of all arrays
NAME/c.TASK.0…  one shard
status/c.0      statuses of all clips, for readers that cannot list the ledger
clips/          clip names, one per line, and the offset of each line; a copy of the root document
claims          the lock file, see `locks`
scratch/TASK/   shards being written

The clip list is memory-mapped, not read: opening 650,000 names takes as long as opening 100.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stores.backends import Files, LocalFiles
from stores.encodings import Cast, ChecksumError, canonical_json, crc32c, verified
from stores.errors import StoreError
from stores.spec import FORMAT, VERSION, ArraySpec, StoreSpec, arrays

ROOT_KEY = "zarr.json"
ROOT_COPY_KEY = "clips/header.json"
STATUS_KEY = "status/c.0"
NAMES_KEY = "clips/names.txt"
OFFSETS_KEY = "clips/offsets.npy"
LOCKS = "claims"
SCRATCH = "scratch"
_ATTRIBUTE = "lila"


@dataclass(frozen=True)
class Header:
    """The attributes of the root document."""

    spec: StoreSpec
    n_clips: int
    clip_checksums: dict[str, int]  # of the clip list, see `encode_clip_names`
    fingerprint: dict[str, Any]  # settings that determine the data, besides the spec
    provenance: dict[str, Any]  # any other information

    @property
    def digest(self) -> str:
        """SHA-256 of everything that determines the data; each ledger record carries it."""
        document = {"version": VERSION, "spec": self.spec.to_dict(), "fingerprint": self.fingerprint}
        return hashlib.sha256(canonical_json(document)).hexdigest()

    def documents(self) -> dict[str, bytes]:
        """Return every `zarr.json` of the store, by key."""
        members = {
            name: array.metadata(self.n_clips, self.spec.shard_clips) for name, array in arrays(self.spec).items()
        }
        members["status"] = ArraySpec("status", (), (), Cast("uint8")).metadata(self.n_clips, self.n_clips) | {
            "codecs": [{"name": "bytes"}, {"name": "crc32c"}],  # one file
            "attributes": {"flag_values": [0, 1, 2], "flag_meanings": "absent complete failed"},
        }
        body = {
            "format": FORMAT,
            "version": VERSION,
            "spec": self.spec.to_dict(),
            "clips": {"count": self.n_clips, **self.clip_checksums},
            "fingerprint": self.fingerprint,
            "provenance": self.provenance,
        }
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {_ATTRIBUTE: {**body, "crc32c": crc32c(canonical_json(body))}},
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": members},
        }
        documents = {ROOT_KEY: root, **{f"{name}/{ROOT_KEY}": document for name, document in members.items()}}
        return {key: json.dumps(document, indent=1).encode() for key, document in documents.items()}


def parse_header(data: bytes, location: str) -> Header:
    """Return the header in the root document `data` of the store at `location`."""
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
    try:
        if crc32c(canonical_json({key: body[key] for key in body if key != "crc32c"})) != body["crc32c"]:
            raise ValueError("their checksum does not match")
        checksums = {key: value for key, value in body["clips"].items() if key != "count"}
        spec = StoreSpec.from_dict(body["spec"])
        return Header(spec, body["clips"]["count"], checksums, body["fingerprint"], body["provenance"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"the attributes in {location}/zarr.json are damaged ({error}); "
            "run `lila-cues repair` on it, which restores the copy that every store keeps"
        ) from error


def decode_statuses(data: bytes, location: str) -> np.ndarray:
    """Return uint8 (n_clips,) from the one chunk of the array `status`."""
    try:
        return verified(data)
    except ChecksumError as error:
        raise StoreError(
            f"{location}/{STATUS_KEY} is damaged ({error}); run `lila-cues repair` on the store, which rewrites it"
        ) from error


class ClipList:
    """The names of clips by number."""

    def __init__(self, files: Files) -> None:
        self._names: bytes | mmap.mmap
        if isinstance(files, LocalFiles):
            with (files.root / NAMES_KEY).open("rb") as file:
                self._names = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._offsets = np.load(files.root / OFFSETS_KEY, mmap_mode="r", allow_pickle=False)
        else:
            self._names = files.read(NAMES_KEY)
            self._offsets = np.load(io.BytesIO(files.read(OFFSETS_KEY)), allow_pickle=False)

    def __getitem__(self, clip: int) -> str:
        if not 0 <= clip < len(self._offsets) - 1:
            raise IndexError(clip)
        return self._names[int(self._offsets[clip]) : int(self._offsets[clip + 1]) - 1].decode()

    def find(self, clip_id: str) -> int | None:
        """Return the number of the clip of this name."""
        line = clip_id.encode() + b"\n"
        if self._names[: len(line)] == line:
            return 0
        start = self._names.find(b"\n" + line) + 1
        return int(np.searchsorted(self._offsets, start)) if start else None


def encode_clip_names(clips: Sequence[str]) -> tuple[dict[str, bytes], dict[str, int]]:
    """Return the files of a clip list, by key, and their checksums as the header records them.

    Names must be unique, not empty, without line breaks.
    """
    name, count = Counter(clips).most_common(1)[0] if clips else ("", 0)
    if count > 1:
        raise StoreError(f"clip {name!r} is listed twice; every clip of a store needs a different name")
    bad = next((clip for clip in clips if not clip or "\n" in clip), None)
    if bad is not None:
        raise StoreError(f"{bad!r} cannot name a clip: names are not empty and have no line break; rename the source")
    names = "".join(f"{clip}\n" for clip in clips).encode()
    offsets = encode_offsets(names)
    checksums = {"names_crc32c": crc32c(names), "offsets_crc32c": crc32c(offsets)}
    return {NAMES_KEY: names, OFFSETS_KEY: offsets}, checksums


def encode_offsets(names: bytes) -> bytes:
    """Return the file of offsets for a file of names."""
    ends = np.flatnonzero(np.frombuffer(names, np.uint8) == ord("\n")) + 1
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate([[0], ends]).astype("<i8"))
    return buffer.getvalue()
