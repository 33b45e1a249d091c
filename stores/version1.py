"""Format version 1, which is read, and converted by `merge`, but neither written nor repaired.

It differs from version 2 by one nested attribute of the root document, by clip names in a text file, and by ledger
records without names and checksums of shards.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stores.encodings import canonical_json, crc32c

VERSION = 1
ATTRIBUTE = "lila"
NAMES_KEY = "clips/names.txt"  # one per line


def checksum(body: dict[str, Any]) -> int:
    """Return the checksum of the attribute, which is recorded in it."""
    return crc32c(canonical_json({key: value for key, value in body.items() if key != "crc32c"}))


def upgrade(body: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes as version 2 names them."""
    return {
        "format": body["format"],
        "format_version": body["version"],
        "n_clips": body["clips"]["count"],
        "clip_name_bytes": 1,  # unknown
        "clip_name_crc32c": body["clips"]["names_crc32c"],
        **{name: canonical_json(body[name]).decode() for name in ("spec", "fingerprint", "provenance")},
    }


def clip_names(data: bytes) -> tuple[np.ndarray, int]:
    """Return the clip names, as bytes, in a file of them; and its checksum, which the header records."""
    return np.array(data.split(b"\n")[:-1]), crc32c(data)
