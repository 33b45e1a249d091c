"""The specification of a store: geometry, shard length, encodings, and the arrays that follow from them. No I/O."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
import struct
from dataclasses import asdict, field
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stores.encodings import NO_OTHERS, Blosc, Cast, Encoding, FixedPoint, Jpeg, PerMapInt8, missing_value
from stores.errors import StoreError

FORMAT = "lila-cue-store"
VERSION = 1

# chosen by tests/benchmarks/store_encodings.py
RGB = Cast("uint8", Blosc("zstd", 3, "noshuffle"))
RGB_CODECS = {"zstd": RGB, "jpeg": Cast("uint8", Jpeg(95))}
DEPTH = Cast("float16", Blosc("zstd", 1, "bitshuffle"))
FLOW = FixedPoint(1 / 64, "int16", Blosc("zstd", 3, "shuffle"))
FEATURES = PerMapInt8("int8", Blosc("zstd", 1, "bitshuffle"))

STANDARD_CUES = ("rgb", "depth", "flow_forward", "flow_backward", "features", "features_raw")


@dataclass(frozen=True, config=NO_OTHERS)
class Geometry:
    """Sizes that all clips of a store share; pairs of numbers are (y, x)."""

    frames: int
    pairs: int
    base: tuple[int, int]  # of rgb, the shared base crop
    cue: tuple[int, int]  # of depth and flow
    features: tuple[int, int]  # of the refined features
    encoder: tuple[int, int]  # of features_raw, the encoder's own grid
    channels: int  # encoder channels stored per clip


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
    shard_clips: int = 16
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
        """Return the spec that `to_dict` described; ValueError if a field is missing, unknown or of another type."""
        try:
            return TypeAdapter(cls).validate_python(document)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One array over all clips; `shape` and `dimensions` are those of one clip, the dimension `clip` precedes them.

    An inner chunk is one index of the first axis if `split` (a frame, a pair), else the entire clip.
    """

    name: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    encoding: Encoding
    split: bool = False
    attributes: dict[str, Any] = field(default_factory=dict, hash=False)

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
        """Return the path of a shard within the store."""
        return f"{self.name}/c.{task}" + ".0" * len(self.shape)

    def metadata(self, n_clips: int, shard_clips: int) -> dict[str, Any]:
        """Return the array's `zarr.json`: one shard is `shard_clips` clips and one file."""
        missing = missing_value(self.encoding)
        attributes: dict[str, Any] = {}  # the CF attributes by which xarray and others decode values and NaN
        if isinstance(self.encoding, FixedPoint):
            attributes = {"scale_factor": self.encoding.step, "_FillValue": missing}
        elif isinstance(self.encoding, PerMapInt8):
            attributes = {"_FillValue": missing}
        elif self.dtype.kind == "f":  # xarray's own form of NaN in JSON
            attributes = {"_FillValue": base64.standard_b64encode(struct.pack("<d", math.nan)).decode()}
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
    """Return all arrays but `status`, in the order in which a task writes them."""
    g = spec.geometry
    flow = {"units": "px of the cue grid", "flow_axis": "0 is x (right), 1 is y (down)"}
    scaled = ("features", "features_raw") if isinstance(spec.features, PerMapInt8) else ()
    ordered = [
        ArraySpec("rgb", ("frame", "rgb_y", "rgb_x", "colour"), (g.frames, *g.base, 3), spec.rgb, True),
        ArraySpec(
            "depth", ("frame", "y", "x"), (g.frames, *g.cue), spec.depth, True, {"units": "relative inverse depth"}
        ),
        ArraySpec("flow_forward", ("pair", "flow_axis", "y", "x"), (g.pairs, 2, *g.cue), spec.flow, True, flow),
        ArraySpec("flow_backward", ("pair", "flow_axis", "y", "x"), (g.pairs, 2, *g.cue), spec.flow, True, flow),
    ]
    for name, grid, size in (("features", "feature", g.features), ("features_raw", "encoder", g.encoder)):
        dimensions, shape = ("frame", "channel", f"{grid}_y", f"{grid}_x"), (g.frames, g.channels, *size)
        notes = {"scale_array": f"{name}_scale"} if name in scaled else {}
        ordered.append(ArraySpec(name, dimensions, shape, spec.features, True, notes))
    for maps in spec.extra:
        dimensions, shape = ("frame", f"{maps.name}_axis", "y", "x"), (g.frames, len(maps.axis), *g.cue)
        attributes = {"units": maps.units, "axis": list(maps.axis), "limits": list(maps.limits)}
        ordered.append(ArraySpec(maps.name, dimensions, shape, maps.encoding, True, attributes))
    for name in scaled:
        ordered.append(ArraySpec(f"{name}_scale", ("frame", "channel"), (g.frames, g.channels), Cast("float32")))
    ordered += [
        ArraySpec("feature_channels", ("channel",), (g.channels,), Cast("int32")),
        ArraySpec("frame_index", ("frame",), (g.frames,), Cast("int64")),
        ArraySpec("frame_time", ("frame",), (g.frames,), Cast("float64"), attributes={"units": "s"}),
        ArraySpec("pair_frames", ("pair", "end"), (g.pairs, 2), Cast("int32")),
        ArraySpec("pair_gap", ("pair",), (g.pairs,), Cast("int32"), attributes={"units": "source frames"}),
    ]
    names = [array.name for array in ordered]
    if len(set(names)) < len(names):
        raise StoreError(f"two arrays have the same name among {', '.join(names)}; give each extra cue another name")
    return dict(zip(names, ordered, strict=True))
