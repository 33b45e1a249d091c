"""The specification of a store: geometry, shard length, encodings, and the arrays that follow from them. No I/O.

The ranges of its fields are those that a store can be read with: a document with other values is refused.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import re
import struct
from dataclasses import asdict, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stores.encodings import (
    MAX_CHUNK_BYTES,
    NO_OTHERS,
    Blosc,
    Cast,
    Encoding,
    FixedPoint,
    Jpeg,
    PerMapInt8,
    canonical_json,
    missing_value,
)
from stores.errors import StoreError

FORMAT = "lila-cue-store"
VERSION = 2

Side = Annotated[int, Field(ge=1, le=2**14)]  # of a frame or map, in px
Count = Annotated[int, Field(ge=1, le=2**12)]  # of frames, pairs or channels of one clip
ShardClips = Annotated[int, Field(ge=1, le=128)]  # a ledger record's name has a digit for each

# chosen by tests/benchmarks/store_encodings.py
RGB = Cast("uint8", Blosc("zstd", 3, "noshuffle"))
RGB_CODECS = {"zstd": RGB, "jpeg": Cast("uint8", Jpeg(95))}
DEPTH = Cast("float16", Blosc("zstd", 1, "bitshuffle"))
FLOW = FixedPoint(1 / 64, "int16", Blosc("zstd", 3, "shuffle"))
FEATURES = PerMapInt8("int8", Blosc("zstd", 1, "bitshuffle"))

OTHER_NAMES = ("status", "clip_name", "clips", "ledger", "claims", "scratch")  # in a store's folder besides arrays
STANDARD_CUES = ("rgb", "depth", "flow_forward", "flow_backward", "features", "features_raw")


@dataclass(frozen=True, config=NO_OTHERS)
class Geometry:
    """Sizes that all clips of a store share; pairs of numbers are (y, x)."""

    frames: Count
    pairs: Count
    base: tuple[Side, Side]  # of rgb, the shared base crop
    cue: tuple[Side, Side]  # of depth and flow
    features: tuple[Side, Side]  # of the refined features
    encoder: tuple[Side, Side]  # of features_raw, the encoder's own grid
    channels: Count  # encoder channels stored per clip


@dataclass(frozen=True, config=NO_OTHERS)
class FrameMaps:
    """An extra cue: maps of every frame on the cue grid, in addition to STANDARD_CUES."""

    name: str
    axis: tuple[str, ...]  # meaning of each channel, such as x, y, z
    units: str
    encoding: Cast | FixedPoint
    limits: tuple[float, float]  # smallest and largest possible value
    tolerance: float  # 99 % of the values of two computations differ by less

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):  # it names a folder of the store
            raise ValueError(f"expected a cue's name in lower-case letters, digits and _, found {self.name!r}")


@dataclass(frozen=True, config=NO_OTHERS)
class StoreSpec:
    """Geometry, clips per shard, the encoding of each cue, and extra cues."""

    geometry: Geometry
    shard_clips: ShardClips = 16
    rgb: Encoding = RGB
    depth: Encoding = DEPTH
    flow: Encoding = FLOW
    features: Encoding = FEATURES
    extra: tuple[FrameMaps, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form in a store's attributes; `extra` is left out if there are no extra cues."""
        return {name: value for name, value in asdict(self).items() if name != "extra" or value}

    @classmethod
    def from_dict(cls, document: Any) -> StoreSpec:
        """Return the spec that `to_dict` described; ValueError if a field is missing, unknown or out of range."""
        try:
            return TypeAdapter(cls).validate_json(canonical_json(document), strict=True)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a document in one line."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One array over all clips; `shape` and `dimensions` are those of one clip, the dimension `clip` precedes them.

    An inner chunk is one index of the first axis if `split` (a frame, a pair), else the entire clip.
    """

    name: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    encoding: Encoding
    attributes: dict[str, Any] = field(hash=False)
    split: bool = False

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.encoding.dtype)

    @property
    def clip_chunks(self) -> int:
        return self.shape[0] if self.split else 1

    @property
    def clip_bytes(self) -> int:
        """Bytes of one clip before compression."""
        return math.prod(self.shape) * self.dtype.itemsize

    def shard_key(self, task: int) -> str:
        return f"{self.name}/c.{task}" + ".0" * len(self.shape)

    def metadata(self, n_clips: int, shard_clips: int) -> dict[str, Any]:
        """Return the array's `zarr.json`: one shard is `shard_clips` clips and one file."""
        missing = missing_value(self.encoding)
        attributes: dict[str, Any] = {}  # the CF attributes by which xarray and others decode values and NaN
        if isinstance(self.encoding, FixedPoint):
            attributes["scale_factor"] = self.encoding.step
        elif self.dtype == np.float16:  # xarray then decodes to float64; netCDF has no float16, and sums overflow in it
            attributes["scale_factor"] = 1.0
        elif self.dtype.kind == "f":  # xarray's own form of NaN in JSON
            attributes["_FillValue"] = base64.standard_b64encode(struct.pack("<d", math.nan)).decode()
        if self.dtype.kind == "i":
            attributes["_FillValue"] = missing
        sharding = {
            "chunk_shape": [1, *((1, *self.shape[1:]) if self.split else self.shape)],
            "codecs": self.encoding.codec.metadata(self.dtype.itemsize),
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [n_clips, *self.shape],
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_clips, *self.shape]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": "NaN" if isinstance(missing, float) else missing,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["clip", *self.dimensions],
            "attributes": {**attributes, **self.attributes},
            "storage_transformers": [],
        }


def arrays(spec: StoreSpec) -> dict[str, ArraySpec]:
    """Return all arrays but `status` and `clip_name`, in the order in which a task writes them."""
    g, channels = spec.geometry, (spec.geometry.frames, spec.geometry.channels)
    ordered = [
        ArraySpec("rgb", ("frame", "rgb_y", "rgb_x", "colour"), (g.frames, *g.base, 3), spec.rgb, about("RGB"), True),
        ArraySpec("depth", ("frame", "y", "x"), (g.frames, *g.cue), spec.depth, about("relative inverse depth"), True),
    ]
    for name, ends in (("flow_forward", "t to t+Δ"), ("flow_backward", "t+Δ to t")):
        attributes = about(f"optical flow, frame {ends}", "px", flow_axis="x (right), y (down)")
        dimensions, shape = ("pair", "flow_axis", "y", "x"), (g.pairs, 2, *g.cue)
        ordered.append(ArraySpec(name, dimensions, shape, spec.flow, attributes, True))
    scaled = ("features", "features_raw") if isinstance(spec.features, PerMapInt8) else ()
    for name, grid, size in (("features", "feature", g.features), ("features_raw", "encoder", g.encoder)):
        notes = {"scale_array": f"{name}_scale"} if name in scaled else {}
        meaning = f"channels of the encoder{', refined by PAMR' * (name == 'features')}"
        dimensions = ("frame", "channel", f"{grid}_y", f"{grid}_x")
        ordered.append(ArraySpec(name, dimensions, channels + size, spec.features, about(meaning, **notes), True))
    for maps in spec.extra:
        axis, shape = f"{maps.name}_axis", (g.frames, len(maps.axis), *g.cue)
        attributes = about(maps.name, maps.units, limits=list(maps.limits)) | {axis: ", ".join(maps.axis)}
        ordered.append(ArraySpec(maps.name, ("frame", axis, "y", "x"), shape, maps.encoding, attributes, True))
    for name in scaled:
        scale = about(f"value of a step of {name}")
        ordered.append(ArraySpec(f"{name}_scale", ("frame", "channel"), channels, Cast("float32"), scale))
    channel, distance = about("number of the channel in the encoder"), "distance Δ of the pair's frames in the source"
    ordered += [
        ArraySpec("feature_channels", ("channel",), (g.channels,), Cast("int32"), channel),
        ArraySpec("frame_index", ("frame",), (g.frames,), Cast("int64"), about("number of the frame in the source")),
        ArraySpec(
            "frame_time", ("frame",), (g.frames,), Cast("float64"), about("time of the frame in the source", "s")
        ),
        ArraySpec("pair_frames", ("pair", "end"), (g.pairs, 2), Cast("int32"), about("which two of the clip's frames")),
        ArraySpec("pair_gap", ("pair",), (g.pairs,), Cast("int32"), about(distance, "frames")),
    ]
    names = [*(array.name for array in ordered), *OTHER_NAMES]
    if len(set(names)) < len(names):
        raise StoreError(f"two parts of a store have the same name among {', '.join(names)}; rename the extra cue")
    largest = max(ordered, key=lambda array: array.clip_bytes // array.clip_chunks)
    if (chunk_bytes := largest.clip_bytes // largest.clip_chunks) > MAX_CHUNK_BYTES:
        raise StoreError(
            f"a {largest.dimensions[0]} of {largest.name} would take {chunk_bytes:,} bytes, more than the "
            f"{MAX_CHUNK_BYTES:,} of a chunk; choose smaller sizes"
        )
    return {array.name: array for array in ordered}


def about(long_name: str, units: str = "1", **notes: Any) -> dict[str, Any]:
    """Return attributes of an array as CF names them; `notes` are further ones. All survive in netCDF."""
    return {"long_name": long_name, "units": units, **notes}
