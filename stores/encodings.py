"""How one inner chunk becomes bytes and back: blosc, then crc32c, as the Zarr v3 codecs of these names do.

Only this module calls the compressor and the checksum. A payload is `compressed ‖ crc32c` (4 bytes, little endian).

How a cue's numbers are kept: as they are, in equal steps, or in rows with a scale each; and how far off that may be.

Values that cannot be kept (NaN, infinite, out of range) are kept as *missing* and read as NaN, never as another number.
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


_ZSTD = Blosc()


@dataclass(frozen=True)
class Cast:
    """Stored in `dtype`; for float16 a relative rounding error of 2⁻¹¹, for integers none."""

    dtype: str
    codec: Blosc = _ZSTD

    def encode(self, values: np.ndarray) -> np.ndarray:
        """`values` in the stored type."""
        dtype = np.dtype(self.dtype)
        if dtype.kind != "f":
            return np.asarray(values).astype(dtype, copy=False)
        return np.where(np.abs(values) <= np.finfo(dtype).max, values, np.nan).astype(dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Floats as float32 or float64, integers as they are."""
        return stored.astype(np.float32) if stored.dtype == np.float16 else stored

    def error_bound(self, values: np.ndarray) -> np.ndarray:
        """Largest |decoded − value| for each finite value in range."""
        dtype = np.dtype(self.dtype)
        if dtype.kind != "f":
            return np.zeros_like(values)
        info = np.finfo(dtype)
        return np.maximum(np.abs(values) * 2.0 ** -(info.nmant + 1), float(info.smallest_subnormal) / 2)

    @property
    def missing(self) -> float | int:
        """The stored value that stands for none."""
        return _MISSING_PLAIN[np.dtype(self.dtype).kind]


@dataclass(frozen=True)
class FixedPoint:
    """Stored as the nearest whole number of `step`s; error at most step / 2 within ± (max − 1) · step."""

    step: float
    dtype: str = "int16"
    codec: Blosc = _ZSTD

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Whole steps, `missing` where there is no value or none that fits."""
        with np.errstate(over="ignore"):
            steps = np.rint(np.asarray(values, np.float32) * np.float32(1 / self.step))
        fits = np.abs(steps) <= np.iinfo(self.dtype).max
        return np.where(fits, steps, np.float32(self.missing)).astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """float32, NaN where missing."""
        values = stored.astype(np.float32)
        values *= np.float32(self.step)
        absent = stored == self.missing
        if absent.any():
            values[absent] = np.nan
        return values

    def error_bound(self, values: np.ndarray) -> np.ndarray:
        """Largest |decoded − value| for each finite value in range: half a step, and the rounding of float32."""
        return np.full(np.shape(values), self.step / 2) + np.abs(values) * 2.0**-23

    @property
    def missing(self) -> int:
        """The stored value that stands for none: the type's smallest, of which no positive counterpart exists."""
        return int(np.iinfo(self.dtype).min)


@dataclass(frozen=True)
class PerMapInt8:
    """int8 with one scale for each map (a channel of a frame), kept beside in the array `…_scale`.

    Error at most scale / 2, where scale = max|map| / 127.
    """

    dtype: str = "int8"
    codec: Blosc = _ZSTD

    def encode(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stored `… y x` and float32 scales `…` of maps `… y x`."""
        maps = np.asarray(values, np.float32)
        finite = np.abs(maps) <= _LARGEST_IN_ROWS
        maps = maps if finite.all() else np.where(finite, maps, np.float32(0))
        largest = np.iinfo(self.dtype).max
        scales = (np.abs(maps).max(axis=(-2, -1)) / np.float32(largest)).astype(np.float32)
        divisors = np.where(scales > 0, scales, 1)[..., None, None]
        steps = np.clip(np.rint(maps / divisors), -largest, largest)
        return np.where(finite, steps, self.missing).astype(self.dtype), scales

    def decode(self, stored: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """float32, NaN where missing."""
        values = stored.astype(np.float32)
        values *= scales[..., None, None]
        absent = stored == self.missing
        if absent.any():
            values[absent] = np.nan
        return values

    def error_bound(self, scales: np.ndarray) -> np.ndarray:
        """Largest |decoded − value| in each map."""
        return scales * (0.5 + 127 * 2.0**-22)

    @property
    def missing(self) -> int:
        """The stored value that stands for none."""
        return int(np.iinfo(self.dtype).min)


_LARGEST_IN_ROWS = np.float32(1e38)  # beyond, scale · 127 might not be finite

Encoding = Cast | FixedPoint | PerMapInt8
_KINDS: dict[str, type[Cast] | type[FixedPoint] | type[PerMapInt8]] = {
    "plain": Cast,
    "steps": FixedPoint,
    "rows": PerMapInt8,
}
_MISSING_PLAIN: dict[str, float | int] = {"f": float("nan"), "i": -1, "u": 0}


def to_dict(encoding: Encoding) -> dict[str, Any]:
    """As it stands in a store's attributes."""
    kind = next(name for name, cls in _KINDS.items() if type(encoding) is cls)
    return {"kind": kind, **asdict(encoding)}


def from_dict(entry: dict[str, Any]) -> Encoding:
    """The inverse of `to_dict`."""
    fields = dict(entry)
    cls = _KINDS[fields.pop("kind")]
    return cls(**{**fields, "codec": Blosc(**fields["codec"])})
