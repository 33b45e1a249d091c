"""The files of a store besides shards and ledger: the root document, the statuses, and the names of clips.

zarr.json           of the group; attributes, all strings and numbers: see `Header.attributes`; metadata of all arrays
NAME/c.TASK.0…      one shard
status/c.0          statuses of all clips, for readers that cannot list the ledger
clip_name/c.0.0     names of all clips, in rows of the same number of bytes
clips/header.json   a copy of the root document
claims              the lock file, see `locks`
scratch/TASK-TIME-WRITER/    shards being written

The names are memory-mapped, not read: opening 650,000 clips takes as long as opening 100.

Version 1 of the format is read, and converted by `merge`, but neither written nor repaired. It differs by one nested
attribute of the root document, by clip names in a text file, and by ledger records without names and checksums of
shards.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from stores.backends import Files
from stores.encodings import CHECKSUM_BYTES, Cast, ChecksumError, canonical_json, crc32c, verified
from stores.errors import StoreError
from stores.spec import FORMAT, VERSION, ArraySpec, StoreSpec, about, arrays, first_problem

ROOT_KEY = "zarr.json"
ROOT_COPY_KEY = "clips/header.json"
STATUS_KEY = "status/c.0"
NAMES_KEY = "clip_name/c.0.0"
VERSION_1, NAMES_KEY_1 = 1, "clips/names.txt"  # one name per line
LOCKS = "claims"
SCRATCH = "scratch"
_NAME = re.compile(r"[^\n\0\ud800-\udfff]+")  # what UTF-8 encodes
_CHECKED = (
    "format", "format_version", "n_clips", "clip_name_bytes", "clip_name_crc32c", "spec", "fingerprint", "provenance",
)  # fmt: skip
_STATES: dict[str, Any] = {"flag_values": [0, 1, 2], "flag_meanings": "absent complete failed"}


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Header:
    """The attributes of the root document."""

    spec: StoreSpec
    n_clips: Annotated[int, Field(ge=1, le=10**8)]
    name_bytes: Annotated[int, Field(ge=1, le=2**16)]  # of each row of the clip names
    names_crc32c: int  # of all rows
    fingerprint: dict[str, Any]  # settings that determine the data, besides the spec
    provenance: dict[str, Any]  # any other information
    version: int = VERSION

    @property
    def digest(self) -> str:
        """SHA-256 of everything that determines the data; each ledger record carries it."""
        document = {"version": self.version, "spec": self.spec.to_dict(), "fingerprint": self.fingerprint}
        return hashlib.sha256(canonical_json(document)).hexdigest()

    def attributes(self) -> dict[str, int | str]:
        """Return the attributes of the root document: strings and numbers, so that netCDF can hold them."""
        body: dict[str, int | str] = {
            "format": FORMAT,
            "format_version": self.version,
            "n_clips": self.n_clips,
            "clip_name_bytes": self.name_bytes,
            "clip_name_crc32c": self.names_crc32c,
            "spec": canonical_json(self.spec.to_dict()).decode(),
            "fingerprint": canonical_json(self.fingerprint).decode(),
            "provenance": canonical_json(self.provenance).decode(),
        }
        return {**body, "crc32c": _checksum(body)}

    def documents(self) -> dict[str, bytes]:
        """Return every `zarr.json` of the store, by key."""
        members = {name: each.metadata(self.n_clips, self.spec.shard_clips) for name, each in arrays(self.spec).items()}
        names = about("name of the clip, UTF-8 padded with 0")
        for array in (
            ArraySpec("status", (), (), Cast("uint8"), about("state of the clip", **_STATES)),
            ArraySpec("clip_name", ("name_byte",), (self.name_bytes,), Cast("uint8"), names),
        ):
            one_file = {"codecs": [{"name": "bytes"}, {"name": "crc32c"}]}
            members[array.name] = array.metadata(self.n_clips, self.n_clips) | one_file
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": self.attributes(),
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": members},
        }
        documents = {ROOT_KEY: root, **{f"{name}/{ROOT_KEY}": document for name, document in members.items()}}
        return {key: json.dumps(document, indent=1).encode() for key, document in documents.items()}


def parse_header(data: bytes, location: str) -> Header:
    """Return the header in the root document `data` of the store at `location`; other attributes are ignored."""
    try:
        source = json.loads(data)["attributes"]
        old = "lila" in source
        source = source["lila"] if old else source
        form, version = source["format"], source["version" if old else "format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{location} is not a cue store, or its zarr.json is damaged: it has no attribute 'format'; "
            "name a folder that `lila-cues build` wrote, or run `lila-cues repair` on it"
        ) from error
    if form != FORMAT or version != (VERSION_1 if old else VERSION):
        raise StoreError(
            f"{location} is in format {form} version {version}, this program reads {FORMAT} up to version {VERSION}; "
            + ("update lila-pixels" if isinstance(version, int) and version > VERSION else "build the store again")
        )
    try:
        if _checksum(source, [*source.keys() - {"crc32c"}] if old else _CHECKED) != source["crc32c"]:
            raise ValueError("their checksum does not match")
        attributes = _of_version_1(source) if old else source
        return Header(
            spec=StoreSpec.from_dict(json.loads(attributes["spec"])),
            n_clips=attributes["n_clips"],
            name_bytes=attributes["clip_name_bytes"],
            names_crc32c=attributes["clip_name_crc32c"],
            fingerprint=json.loads(attributes["fingerprint"]),
            provenance=json.loads(attributes["provenance"]),
            version=version,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error
        raise StoreError(
            f"the attributes in {location}/zarr.json are damaged ({problem}); "
            "run `lila-cues repair` on it, which restores the copy that every store keeps"
        ) from error


def _of_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of version 1 as version 2 names them, without the size of a name's row."""
    documents = {name: canonical_json(body[name]).decode() for name in ("spec", "fingerprint", "provenance")}
    clips = body["clips"]
    return {"n_clips": clips["count"], "clip_name_bytes": 1, "clip_name_crc32c": clips["names_crc32c"], **documents}


def _checksum(attributes: dict[str, Any], names: Sequence[str] = _CHECKED) -> int:
    return crc32c(canonical_json({name: attributes[name] for name in names}))


def decode_statuses(data: bytes, location: str) -> np.ndarray:
    """Return uint8 (n_clips,) from the one chunk of the array `status`."""
    try:
        return verified(data)
    except ChecksumError as error:
        raise StoreError(
            f"{location}/{STATUS_KEY} is damaged ({error}); run `lila-cues repair` on the store, which rewrites it"
        ) from error


def require_clip_names(files: Files, header: Header) -> None:
    """Raise StoreError if the file of clip names does not have the size that the header implies."""
    if header.version == VERSION:
        expected = header.n_clips * header.name_bytes + CHECKSUM_BYTES
        with _explain_damage(files, NAMES_KEY):
            blob, _ = files.open(NAMES_KEY, CHECKSUM_BYTES)
            if blob.size != expected:
                raise ChecksumError(f"it has {blob.size:,} bytes, not {expected:,} for {header.n_clips:,} clips")


class ClipNames:
    """The names of clips by number; verified when this is created.

    Attributes:
        encoded: bytes (n_clips,), memory-mapped.
    """

    def __init__(self, files: Files, header: Header) -> None:
        key = NAMES_KEY if header.version == VERSION else NAMES_KEY_1
        with _explain_damage(files, key):
            data = files.mapped(key)
            if header.version == VERSION:
                encoded, checksum = verified(data), int.from_bytes(data[-CHECKSUM_BYTES:], "little")
                encoded = encoded[: header.n_clips * header.name_bytes].view(f"S{header.name_bytes}")
            else:
                encoded, checksum = np.array(data[:].split(b"\n")[:-1]), crc32c(data[:])
            if checksum != header.names_crc32c or len(encoded) != header.n_clips:
                raise ChecksumError("it is not the list that zarr.json records")
        self.encoded: np.ndarray = encoded

    def __getitem__(self, clip: int) -> str:
        name: bytes = self.encoded[clip]
        return name.decode()

    def find(self, clip_id: str) -> int | None:
        found = np.flatnonzero(self.encoded == clip_id.encode(errors="surrogateescape"))
        return int(found[0]) if len(found) else None


@contextmanager
def _explain_damage(files: Files, key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ChecksumError) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else error
        raise StoreError(
            f"the clip names in {files.location}/{key} are damaged ({reason}); "
            "run `lila-cues repair` on the store, which restores them"
        ) from error


def encode_clip_names(clips: Sequence[str]) -> np.ndarray:
    """Return clip names as bytes (n_clips,), each padded with 0 to the longest.

    Names must be unique, not empty, without line breaks. Two that differ only by Unicode normalization are refused:
    some file systems take them for one file. Case distinguishes names, as in YouTube's ids, which Kinetics uses; so a
    name must not be used as that of a file in a folder that may ignore case.
    """
    invalid = next((clip for clip in clips if not _NAME.fullmatch(clip)), None)
    if invalid is not None:
        raise StoreError(
            f"{invalid!r} cannot name a clip: names are UTF-8, not empty and have no line break; rename the source"
        )
    name, count = Counter(unicodedata.normalize("NFC", clip) for clip in clips).most_common(1)[0]
    if count > 1:
        twins = " and ".join(ascii(clip) for clip in clips if unicodedata.normalize("NFC", clip) == name)
        raise StoreError(
            f"clips {twins} have the same name, or one that differs only by Unicode normalization; "
            "every clip of a store needs a different name"
        )
    return np.array([clip.encode() for clip in clips])
