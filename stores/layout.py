"""Names within a store, and the document at its root. Pure but for `parse`'s complaints.

zarr.json            of the group; attributes: format version, spec, fingerprint, provenance; all arrays' metadata
NAME/c.TASK.0…       one shard
status/c.0           statuses of all clips, for readers that cannot list the ledger
ledger/, clips/      see their modules;   claims   see `claims`;   scratch/TASK/   shards being written
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from stores import durable
from stores.arrays import arrays
from stores.codecs import ChecksumError, checked, crc32c
from stores.errors import StoreError
from stores.spec import FORMAT, VERSION, StoreSpec

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
        return hashlib.sha256(durable.canonical(shaped)).hexdigest()

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
        attributes = {_ATTRIBUTE: {**body, "crc32c": crc32c(durable.canonical(body))}}
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


def encode(document: dict[str, Any]) -> bytes:
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
        if crc32c(durable.canonical(expected)) != body["crc32c"]:
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
