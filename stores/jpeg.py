"""The Zarr v3 codec of JPEG frames, which zarr-python finds by this package's entry point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from stores.encodings import CHECKSUM_BYTES, JPEG_CODEC, Jpeg, with_checksum


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Chunks …×y×x×3 of uint8 as one JPEG; the leading axes have length 1."""

    is_fixed_size = False
    quality: int = 95

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> JpegCodec:
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        return {"name": JPEG_CODEC, "configuration": {"quality": self.quality}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        frame = np.empty(chunk_spec.shape[-3:], np.uint8)
        Jpeg(self.quality).decode_into(with_checksum(chunk_bytes.to_bytes()), frame)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(frame.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        frame = chunk_array.as_numpy_array().reshape(chunk_spec.shape[-3:])
        encoded = Jpeg(self.quality).encode(np.ascontiguousarray(frame))
        return chunk_spec.prototype.buffer.from_bytes(encoded[:-CHECKSUM_BYTES])
