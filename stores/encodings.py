"""Encodings of cue values, and of one inner chunk as bytes.

An encoding casts or quantizes values. Values that it cannot represent (NaN, infinite, out of range) are stored as
*missing* and decoded to NaN. A chunk is then stored as `compressed ‖ crc32c` (4 bytes, little endian), as the Zarr v3
codecs `blosc` and `crc32c` define it; frames may be JPEG instead. Only this module calls compressors and checksum.
"""

from __future__ import annotations

import io
import json
import mmap
import sys
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import google_crc32c
import numpy as np
from numcodecs import blosc
from PIL import Image
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")
CHECKSUM_BYTES = 4
MAX_CHUNK_BYTES = 2**31 - 17  # of one inner chunk: blosc's own limit
JPEG_CODEC = "lila.jpeg"  # its name in Zarr metadata
NO_OTHERS = ConfigDict(extra="forbid", allow_inf_nan=False)  # a spec of JSON values has no unknown fields
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_LARGEST_PER_MAP = float(np.float32(1e38))  # beyond it, scale · 127 might be infinite


class ChecksumError(Exception):
    """The bytes are not those that were written."""


@dataclass(frozen=True, config=NO_OTHERS)
class Blosc:
    """Parameters of the `blosc` codec; `shuffle` is one of noshuffle, shuffle, bitshuffle.

    One block of up to 1 MiB, mostly the entire chunk, is smaller and faster to decode than blosc's default.
    """

    compressor: Literal["blosclz", "lz4", "lz4hc", "zlib", "zstd"] = "zstd"
    level: Annotated[int, Field(ge=0, le=9)] = 3
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"] = "shuffle"
    block: Annotated[int, Field(ge=0, le=MAX_CHUNK_BYTES)] = 1 << 20  # bytes

    def metadata(self, itemsize: int) -> list[dict[str, Any]]:
        """Return the Zarr v3 codecs of an inner chunk."""
        configuration = {
            "cname": self.compressor,
            "clevel": self.level,
            "shuffle": self.shuffle,
            "typesize": itemsize,
            "blocksize": self.block,
        }
        return [
            {"name": "bytes", **({"configuration": {"endian": "little"}} if itemsize > 1 else {})},
            {"name": "blosc", "configuration": configuration},
            {"name": "crc32c"},
        ]

    def encode(self, chunk: np.ndarray) -> bytes:
        """Compress a chunk (C order, little endian) and append its checksum."""
        contiguous = np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("<"))
        name, shuffle = self.compressor.encode(), _SHUFFLES[self.shuffle]
        return with_checksum(blosc.compress(contiguous, name, self.level, shuffle, self.block))

    def decode_into(self, encoded: bytes, chunk: np.ndarray) -> None:
        """Verify encoded bytes and decompress them into `chunk`, contiguous and of the right size.

        Raises:
            ChecksumError: the bytes are damaged, or those of a chunk of another size.
        """
        body = verified(encoded)
        if int.from_bytes(encoded[4:8], "little") != chunk.nbytes:  # blosc's header: bytes when decompressed
            raise ChecksumError(f"it does not hold the {chunk.nbytes} bytes of a chunk")
        try:
            blosc.decompress(body, chunk)
        except (RuntimeError, ValueError) as error:
            raise ChecksumError(str(error)) from error


@dataclass(frozen=True, config=NO_OTHERS)
class Jpeg:
    """A frame y×x×3 of uint8 as JPEG without chroma subsampling (4:4:4); of rgb alone.

    At quality 95 the mean error is 1.1 gray levels on frames of DAVIS at 480² (0.7 to 1.5 by sequence) and 1.4 at 256²;
    a file has a quarter of zstd's size.
    """

    quality: Annotated[int, Field(ge=1, le=100)]

    def metadata(self, itemsize: int) -> list[dict[str, Any]]:
        """Return the Zarr v3 codecs of an inner chunk; zarr-python finds the first in stores/jpeg.py."""
        return [{"name": JPEG_CODEC, "configuration": {"quality": self.quality}}, {"name": "crc32c"}]

    def encode(self, chunk: np.ndarray) -> bytes:
        """Compress a frame and append its checksum."""
        file = io.BytesIO()
        Image.fromarray(chunk).save(file, "JPEG", quality=self.quality, subsampling=0)
        return with_checksum(file.getvalue())

    def decode_into(self, encoded: bytes, chunk: np.ndarray) -> None:
        """Verify encoded bytes and decompress them into `chunk`; ChecksumError as `Blosc.decode_into`."""
        try:
            frame = np.asarray(Image.open(io.BytesIO(verified(encoded).data), formats=["JPEG"]))
        except (OSError, ValueError, SyntaxError) as error:
            raise ChecksumError(f"it is no JPEG: {error}") from error
        if frame.shape != chunk.shape:
            raise ChecksumError(f"it holds a frame of {frame.shape}, not {chunk.shape}")
        chunk[...] = frame


@dataclass(frozen=True, config=NO_OTHERS)
class Cast:
    """Stored in `dtype`: relative rounding error 2⁻¹¹ for float16, none for integers; uint8 frames may be JPEG."""

    kind: Literal["plain"] = field(default="plain", kw_only=True)
    dtype: Literal["uint8", "int32", "int64", "float16", "float32", "float64"]
    codec: Blosc | Jpeg = Blosc()


@dataclass(frozen=True, config=NO_OTHERS)
class FixedPoint:
    """Stored as an integer multiple of `step`: error at most step / 2 within ± (max − 1) · step."""

    kind: Literal["steps"] = field(default="steps", kw_only=True)
    step: Annotated[float, Field(gt=0)]
    dtype: Literal["int8", "int16", "int32"] = "int16"
    codec: Blosc = Blosc()


@dataclass(frozen=True, config=NO_OTHERS)
class PerMapInt8:
    """int8 with one scale per map (a channel of a frame), max|map| / 127, in the array `…_scale`: error ≤ scale / 2."""

    kind: Literal["rows"] = field(default="rows", kw_only=True)
    dtype: Literal["int8"] = "int8"
    codec: Blosc = Blosc()


Encoding = Annotated[Cast | FixedPoint | PerMapInt8, Field(discriminator="kind")]


def namespace(values: Array) -> Any:
    """Return the module whose functions take an array: numpy, or torch, which this package does not import."""
    return sys.modules[type(values).__module__.partition(".")[0]]


def encode(encoding: Encoding, values: Array) -> tuple[Array, Array | None]:
    """Return stored values and, of PerMapInt8 only, the float32 scales `…` of the maps `… y x`.

    The same for numpy arrays and for torch tensors on any device, bit by bit, without a synchronization.
    """
    xp = namespace(values)
    dtype = getattr(xp, encoding.dtype)
    if isinstance(encoding, Cast):
        if np.dtype(encoding.dtype).kind != "f":
            return xp.asarray(values, dtype=dtype), None
        fits = abs(values) <= float(np.finfo(encoding.dtype).max)
        # NaN after the cast, since the bits of a NaN that is cast depend on the device
        return xp.where(fits, xp.asarray(xp.where(fits, values, 0), dtype=dtype), xp.nan), None
    largest, missing = int(np.iinfo(encoding.dtype).max), float(missing_value(encoding))
    values = xp.asarray(values, dtype=xp.float32)
    if isinstance(encoding, FixedPoint):
        with np.errstate(over="ignore"):
            steps = xp.round(values * float(np.float32(1 / encoding.step)))
        return xp.asarray(xp.where(abs(steps) <= largest, steps, missing), dtype=dtype), None
    finite = abs(values) <= _LARGEST_PER_MAP
    maps = xp.where(finite, values, 0)
    maxima = xp.amax(abs(maps), axis=(-2, -1))
    scales = maxima / xp.full_like(maxima, largest)  # by a scalar, CUDA would multiply by its rounded reciprocal
    steps = xp.clip(xp.round(maps / xp.where(scales > 0, scales, 1)[..., None, None]), -largest, largest)
    return xp.asarray(xp.where(finite, steps, missing), dtype=dtype), scales


def decode(encoding: Encoding, stored: Array, scales: Array | None = None) -> Array:
    """Return float32, NaN where missing; of Cast integers and float64 as they are. PerMapInt8 needs its `scales`.

    The same for numpy arrays and for torch tensors on any device, bit by bit, without a synchronization.
    """
    xp = namespace(stored)
    if isinstance(encoding, Cast):
        return xp.asarray(stored, dtype=xp.float32) if stored.dtype == xp.float16 else stored
    values = xp.asarray(stored, dtype=xp.float32)
    if isinstance(encoding, FixedPoint):
        values *= encoding.step
    else:
        assert scales is not None
        values *= scales[..., None, None]
    values[stored == missing_value(encoding)] = xp.nan
    return values


def missing_value(encoding: Encoding) -> float | int:
    """Return the stored form of a missing value: for Cast NaN, -1 or 0 by its type, else the smallest integer."""
    dtype = np.dtype(encoding.dtype)
    if isinstance(encoding, Cast):
        return {"f": float("nan"), "i": -1, "u": 0}[dtype.kind]
    return int(np.iinfo(dtype).min)  # it has no positive counterpart, so no value is encoded as it


def error_bound(encoding: Encoding, values: np.ndarray) -> np.ndarray:
    """Return the largest |decoded − value| for each finite value in range; of PerMapInt8, for each scale."""
    if isinstance(encoding, PerMapInt8):
        return values * (0.5 + 127 * 2.0**-22)
    if isinstance(encoding, FixedPoint):  # half a step, and float32 rounding
        return np.full(np.shape(values), encoding.step / 2) + np.abs(values) * 2.0**-23
    dtype = np.dtype(encoding.dtype)
    if dtype.kind != "f":
        return np.zeros_like(values)
    info = np.finfo(dtype)
    return np.maximum(np.abs(values) * 2.0 ** -(info.nmant + 1), float(info.smallest_subnormal) / 2)


def with_checksum(body: bytes) -> bytes:
    """Return `body` followed by its crc32c."""
    return body + crc32c(body).to_bytes(CHECKSUM_BYTES, "little")


def verified(encoded: bytes | mmap.mmap) -> np.ndarray:
    """Return the bytes (uint8) before the crc32c at the end, or raise ChecksumError if it does not match."""
    if len(encoded) < CHECKSUM_BYTES:
        raise ChecksumError(f"{len(encoded)} bytes are too few for a chunk")
    body = np.frombuffer(encoded, np.uint8, len(encoded) - CHECKSUM_BYTES)
    if google_crc32c.value(body) != int.from_bytes(encoded[-CHECKSUM_BYTES:], "little"):
        raise ChecksumError("its checksum does not match")
    return body


def crc32c(data: bytes) -> int:
    """Return the crc32c (Castagnoli) of `data`."""
    return int(google_crc32c.value(data))


def canonical_json(document: Any) -> bytes:
    """Return the one JSON form of a document whose checksum is recorded."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
