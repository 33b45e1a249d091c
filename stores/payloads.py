"""The encoded bytes of clips: made from cues, or taken from a shard as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stores.arrays import ArraySpec
from stores.codecs import CHECKSUM_BYTES, ChecksumError, checked, crc32c
from stores.cues import ClipCues, check_shape
from stores.encodings import Rows
from stores.errors import StoreError
from stores.files import Files
from stores.shards import NO_CHUNK, index_bytes, parse_index

ClipPayloads = Mapping[str, list[bytes]]  # array → its inner chunks of one clip


def encode_clip(clip_id: str, specs: Mapping[str, ArraySpec], cues: ClipCues) -> ClipPayloads:
    """All inner chunks of one clip."""
    values: dict[str, Any] = {name: np.asarray(getattr(cues, name)) for name in specs if not name.endswith("_scale")}
    for name, value in values.items():
        check_shape(clip_id, specs[name], value)
    payloads: dict[str, list[bytes]] = {}
    for name, value in values.items():
        encoding = specs[name].encoding
        if isinstance(encoding, Rows):
            value, scales = encoding.encode(value)
            payloads[f"{name}_scale"] = _chunks(specs[f"{name}_scale"], scales)
        else:
            value = encoding.encode(value)
        payloads[name] = _chunks(specs[name], value)
    return {name: payloads[name] for name in specs}


def copy_clip(files: Files, specs: Mapping[str, ArraySpec], task: int, position: int, shard_clips: int) -> ClipPayloads:
    """The inner chunks of the clip at `position` in a task's shards, each checked; StoreError if one is not whole."""
    payloads = {}
    for name, spec in specs.items():
        key = spec.shard_key(task)
        try:
            payloads[name] = _read_chunks(files, key, spec, position, shard_clips)
        except (FileNotFoundError, ChecksumError) as error:
            raise StoreError(f"{files.location}/{key} is not whole ({error})") from error
    return payloads


def digest(payloads: ClipPayloads) -> int:
    """crc32c over the checksums of a clip's inner chunks, in the order of the arrays."""
    return crc32c(b"".join(chunk[-CHECKSUM_BYTES:] for chunks in payloads.values() for chunk in chunks))


def _chunks(spec: ArraySpec, stored: np.ndarray) -> list[bytes]:
    parts = stored if spec.split else [stored]
    return [spec.encoding.codec.encode(np.asarray(part)) for part in parts]


def _read_chunks(files: Files, key: str, spec: ArraySpec, position: int, shard_clips: int) -> list[bytes]:
    entries = shard_clips * spec.clip_chunks
    blob, tail = files.open(key, index_bytes(entries))
    index = parse_index(tail, blob.size, entries)
    wanted = index[position * spec.clip_chunks : (position + 1) * spec.clip_chunks]
    if (wanted[:, 0] == NO_CHUNK).any():
        raise ChecksumError("it lacks a chunk of a complete clip")
    chunks = blob.read([(int(offset), int(length)) for offset, length in wanted])
    for chunk in chunks:
        checked(np.frombuffer(chunk, np.uint8))
    return chunks
