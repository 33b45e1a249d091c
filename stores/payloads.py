"""The encoded bytes of clips: made from cues, or taken from a shard as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stores.arrays import ArraySpec
from stores.codecs import CHECKSUM_BYTES, ChecksumError, checked, crc32c
from stores.cues import ClipCues, check_shape
from stores.encodings import Rows
from stores.files import Blob, Files
from stores.shards import NO_CHUNK, index_bytes, parse_index

ClipPayloads = Mapping[str, list[bytes]]  # array → its inner chunks of one clip


def encode_clip(clip_id: str, specs: Mapping[str, ArraySpec], cues: ClipCues) -> ClipPayloads:
    """All inner chunks of one clip."""
    values: dict[str, Any] = {name: np.asarray(cues[name]) for name in specs if not name.endswith("_scale")}
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


@dataclass(frozen=True)
class ShardChunks:
    """An open shard of one array, by clips."""

    blob: Blob
    index: np.ndarray
    clip_chunks: int

    def clip(self, position: int) -> list[bytes]:
        """The inner chunks of one clip, each checked; ChecksumError where one is not whole."""
        wanted = self.index[position * self.clip_chunks : (position + 1) * self.clip_chunks]
        if (wanted[:, 0] == NO_CHUNK).any():
            raise ChecksumError("it lacks a chunk of a complete clip")
        chunks = self.blob.read([(int(offset), int(length)) for offset, length in wanted])
        for chunk in chunks:
            checked(np.frombuffer(chunk, np.uint8))
        return chunks


def open_shard(files: Files, spec: ArraySpec, task: int, shard_clips: int) -> ShardChunks:
    """The shard of an array; FileNotFoundError or ChecksumError where it is missing or its index is damaged."""
    entries = shard_clips * spec.clip_chunks
    blob, tail = files.open(spec.shard_key(task), index_bytes(entries))
    return ShardChunks(blob, parse_index(tail, blob.size, entries), spec.clip_chunks)


def open_shards(files: Files, specs: Mapping[str, ArraySpec], task: int, shard_clips: int) -> dict[str, ShardChunks]:
    """The shards of a task that can be opened."""
    shards = {}
    for name, spec in specs.items():
        with contextlib.suppress(FileNotFoundError, ChecksumError):
            shards[name] = open_shard(files, spec, task, shard_clips)
    return shards


def digest(payloads: ClipPayloads) -> int:
    """crc32c over the checksums of a clip's inner chunks, in the order of the arrays."""
    return crc32c(b"".join(chunk[-CHECKSUM_BYTES:] for chunks in payloads.values() for chunk in chunks))


def _chunks(spec: ArraySpec, stored: np.ndarray) -> list[bytes]:
    parts = stored if spec.split else [stored]
    return [spec.encoding.codec.encode(np.asarray(part)) for part in parts]
