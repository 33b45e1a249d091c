"""How one inner chunk becomes bytes and back: blosc, then crc32c, as the Zarr v3 codecs of these names do.

Only this module calls the compressor and the checksum. A payload is `compressed ‖ crc32c` (4 bytes, little endian).
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc

CHECKSUM_BYTES = 4
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


class ChecksumError(Exception):
    """The bytes are not those that were written."""


@dataclass(frozen=True)
class Blosc:
    """Parameters of the `blosc` codec; `shuffle` is one of noshuffle, shuffle, bitshuffle, `block` is in bytes.

    Large blocks, mostly the whole chunk, are smaller and faster to decode than blosc's own: chunks are read whole.
    """

    compressor: str = "zstd"
    level: int = 3
    shuffle: str = "shuffle"
    block: int = 1 << 20

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a store's attributes."""
        return asdict(self)

    def metadata(self, itemsize: int) -> list[dict[str, Any]]:
        """The codecs of an inner chunk, as Zarr v3 metadata."""
        blosc_configuration = {
            "cname": self.compressor,
            "clevel": self.level,
            "shuffle": self.shuffle,
            "typesize": itemsize,
            "blocksize": self.block,
        }
        return [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "blosc", "configuration": blosc_configuration},
            {"name": "crc32c"},
        ]

    def encode(self, chunk: np.ndarray) -> bytes:
        """Payload of one chunk (C order, little endian)."""
        contiguous = np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("<"))
        name, shuffle = self.compressor.encode(), _SHUFFLES[self.shuffle]
        return with_checksum(blosc.compress(contiguous, name, self.level, shuffle, self.block))


def decode_into(payload: np.ndarray, chunk: np.ndarray) -> None:
    """Check the payload (uint8, read-only) and decompress it into `chunk`, contiguous and of the right size."""
    body = checked(payload)
    if int.from_bytes(body[4:8].tobytes(), "little") != chunk.nbytes:  # blosc's header: bytes when decompressed
        raise ChecksumError(f"it does not hold the {chunk.nbytes} bytes of a chunk")
    try:
        blosc.decompress(body, chunk)
    except (RuntimeError, ValueError) as error:
        raise ChecksumError(str(error)) from error


def with_checksum(body: bytes) -> bytes:
    """`body` followed by its crc32c."""
    return body + struct.pack("<I", google_crc32c.value(body))


def checked(payload: np.ndarray) -> np.ndarray:
    """The payload (uint8) without its crc32c, once that is found to be right."""
    if len(payload) < CHECKSUM_BYTES:
        raise ChecksumError(f"{len(payload)} bytes are no payload")
    body = payload[:-CHECKSUM_BYTES]
    if google_crc32c.value(body) != stored_checksum(payload):
        raise ChecksumError("its checksum does not agree")
    return body


def stored_checksum(payload: np.ndarray | bytes) -> int:
    """The crc32c that a payload carries."""
    return int(struct.unpack("<I", bytes(payload[-CHECKSUM_BYTES:]))[0])


def crc32c(data: bytes) -> int:
    """crc32c (Castagnoli) of `data`."""
    return int(google_crc32c.value(data))
