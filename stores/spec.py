"""The arrays of a store: names, dimensions, inner chunks, and their Zarr v3 metadata. Pure.

What a store holds: sizes, shard length, and how each cue is kept. All of it stands in the store's attributes.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stores import encodings
from stores.encodings import Blosc, Cast, Encoding, FixedPoint, PerMapInt8
from stores.errors import StoreError

FORMAT = "lila-cue-store"
VERSION = 1

RGB = Cast("uint8", Blosc("zstd", 3, "noshuffle"))
DEPTH = Cast("float16", Blosc("zstd", 1, "bitshuffle"))
FLOW = FixedPoint(1 / 64, "int16", Blosc("zstd", 3, "shuffle"))
FEATURES = PerMapInt8("int8", Blosc("zstd", 1, "bitshuffle"))
_ENCODINGS = ("rgb", "depth", "flow", "features")


@dataclass(frozen=True)
class Geometry:
    """Sizes that every clip of a store shares; pairs of numbers are (y, x)."""

    frames: int
    pairs: int
    base: tuple[int, int]  # of rgb, the shared base crop
    cue: tuple[int, int]  # of depth and flow
    features: tuple[int, int]  # of the refined features
    encoder: tuple[int, int]  # of features_raw, the encoder's own grid
    channels: int  # encoder channels kept per clip

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> Geometry:
        """From a store's attributes, where pairs are lists."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
        }
        return cls(**fields)


@dataclass(frozen=True)
class FrameMaps:
    """An extra cue: maps of every frame on the cue grid, beside those that every store has."""

    name: str
    axis: tuple[str, ...]  # what each channel is, such as x, y, z
    units: str
    encoding: Cast | FixedPoint
    limits: tuple[float, float]  # every value lies between them
    tolerance: float  # 99 % of the values of two computations differ by less

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):  # it names a folder of the store
            raise ValueError(f"expected a cue's name in lower-case letters, digits and _, found {self.name!r}")

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a store's attributes."""
        return {
            **vars(self),
            "axis": list(self.axis),
            "limits": list(self.limits),
            "encoding": encodings.to_dict(self.encoding),
        }

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> FrameMaps:
        """The inverse of `to_dict`."""
        encoding = encodings.from_dict(entry["encoding"])
        return cls(**{**entry, "axis": tuple(entry["axis"]), "limits": tuple(entry["limits"]), "encoding": encoding})


@dataclass(frozen=True)
class StoreSpec:
    """Geometry, clips per shard, each cue's encoding (defaults: tests/benchmarks/store_encodings.py), extra cues."""

    geometry: Geometry
    shard_clips: int = 16
    rgb: Encoding = RGB
    depth: Encoding = DEPTH
    flow: Encoding = FLOW
    features: Encoding = FEATURES
    extra: tuple[FrameMaps, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a store's attributes; extra cues are named only where there are some."""
        cues = {name: encodings.to_dict(getattr(self, name)) for name in _ENCODINGS}
        geometry = {name: list(value) if isinstance(value, tuple) else value for name, value in self._sizes()}
        extra = {"extra": [maps.to_dict() for maps in self.extra]} if self.extra else {}
        return {"geometry": geometry, "shard_clips": self.shard_clips, **cues, **extra}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> StoreSpec:
        """The inverse of `to_dict`; KeyError or TypeError where something is missing or unknown."""
        cues: dict[str, Any] = {name: encodings.from_dict(entry[name]) for name in _ENCODINGS}
        extra = tuple(FrameMaps.from_dict(maps) for maps in entry.get("extra", ()))
        geometry = Geometry.from_dict(entry["geometry"])
        return cls(geometry=geometry, shard_clips=entry["shard_clips"], extra=extra, **cues)

    def _sizes(self) -> list[tuple[str, Any]]:
        return list(asdict(self.geometry).items())


STANDARD_CUES = ("rgb", "depth", "flow_forward", "flow_backward", "features", "features_raw")
_SMALL = Blosc()


@dataclass(frozen=True)
class ArraySpec:
    """One array over all clips; `shape` and `dimensions` are those of one clip, the dimension `clip` before them.

    An inner chunk is one index of the first axis if `split` (a frame, a pair), else all of the clip.
    """

    name: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    encoding: Encoding
    split: bool
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return np.dtype(self.encoding.dtype)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Of one clip's part of an inner chunk."""
        return (1, *self.shape[1:]) if self.split else self.shape

    @property
    def clip_chunks(self) -> int:
        """Inner chunks of one clip."""
        return self.shape[0] if self.split else 1

    @property
    def clip_bytes(self) -> int:
        """Bytes of one clip before compression."""
        return math.prod(self.shape) * self.dtype.itemsize

    def metadata(self, n_clips: int, shard_clips: int) -> dict[str, Any]:
        """The array's `zarr.json`: one shard is `shard_clips` clips and one file."""
        sharding = {
            "chunk_shape": [1, *self.chunk_shape],
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
            "fill_value": _json_number(self.encoding.missing),
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["clip", *self.dimensions],
            "attributes": {**_decoding_attributes(self.encoding), **self.attributes},
            "storage_transformers": [],
        }

    def shard_key(self, task: int) -> str:
        """Path of a shard within the store."""
        return f"{self.name}/c.{task}" + ".0" * len(self.shape)


def arrays(spec: StoreSpec) -> dict[str, ArraySpec]:
    """All arrays but `status`, in the order in which a task writes them."""
    found = (*_cues(spec), *_extra(spec), *_scales(spec), *_indices(spec))
    names = [array.name for array in found]
    if len(set(names)) < len(names):
        raise StoreError(f"two arrays of one name among {', '.join(names)}; give an extra cue a name of its own")
    return dict(zip(names, found, strict=True))


def cue_names(spec: StoreSpec) -> tuple[str, ...]:
    """The arrays that hold cues: those of every store, then the extra ones."""
    return (*STANDARD_CUES, *(maps.name for maps in spec.extra))


def _cues(spec: StoreSpec) -> list[ArraySpec]:
    g = spec.geometry
    flow_shape = (g.pairs, 2, *g.cue)
    flow_names = ("pair", "flow_axis", "y", "x")
    flow_units = {"units": "px of the cue grid", "flow_axis": "0 is x (right), 1 is y (down)"}
    return [
        ArraySpec("rgb", ("frame", "rgb_y", "rgb_x", "colour"), (g.frames, *g.base, 3), spec.rgb, True),
        ArraySpec(
            "depth", ("frame", "y", "x"), (g.frames, *g.cue), spec.depth, True, {"units": "relative inverse depth"}
        ),
        ArraySpec("flow_forward", flow_names, flow_shape, spec.flow, True, flow_units),
        ArraySpec("flow_backward", flow_names, flow_shape, spec.flow, True, flow_units),
        _features("features", "feature", g.features, spec),
        _features("features_raw", "encoder", g.encoder, spec),
    ]


def _extra(spec: StoreSpec) -> list[ArraySpec]:
    g = spec.geometry
    return [
        ArraySpec(
            maps.name,
            ("frame", f"{maps.name}_axis", "y", "x"),
            (g.frames, len(maps.axis), *g.cue),
            maps.encoding,
            True,
            {"units": maps.units, "axis": list(maps.axis), "limits": list(maps.limits)},
        )
        for maps in spec.extra
    ]


def _features(name: str, grid: str, size: tuple[int, int], spec: StoreSpec) -> ArraySpec:
    dimensions = ("frame", "channel", f"{grid}_y", f"{grid}_x")
    shape = (spec.geometry.frames, spec.geometry.channels, *size)
    note = {"scale_array": f"{name}_scale"} if isinstance(spec.features, PerMapInt8) else {}
    return ArraySpec(name, dimensions, shape, spec.features, True, note)


def _scales(spec: StoreSpec) -> list[ArraySpec]:
    if not isinstance(spec.features, PerMapInt8):
        return []
    shape = (spec.geometry.frames, spec.geometry.channels)
    scale = Cast("float32", _SMALL)
    return [
        ArraySpec(f"{name}_scale", ("frame", "channel"), shape, scale, False) for name in ("features", "features_raw")
    ]


def _indices(spec: StoreSpec) -> list[ArraySpec]:
    g = spec.geometry
    return [
        ArraySpec("feature_channels", ("channel",), (g.channels,), Cast("int32", _SMALL), False),
        ArraySpec("frame_index", ("frame",), (g.frames,), Cast("int64", _SMALL), False),
        ArraySpec("frame_time", ("frame",), (g.frames,), Cast("float64", _SMALL), False, {"units": "s"}),
        ArraySpec("pair_frames", ("pair", "end"), (g.pairs, 2), Cast("int32", _SMALL), False),
        ArraySpec("pair_gap", ("pair",), (g.pairs,), Cast("int32", _SMALL), False, {"units": "source frames"}),
    ]


def _decoding_attributes(encoding: Encoding) -> dict[str, Any]:
    """CF conventions, by which xarray and others turn what is stored into numbers and NaN."""
    if isinstance(encoding, FixedPoint):
        return {"scale_factor": encoding.step, "_FillValue": encoding.missing}
    if isinstance(encoding, PerMapInt8):
        return {"_FillValue": encoding.missing}
    if np.dtype(encoding.dtype).kind == "f":  # xarray's own spelling of a NaN in JSON
        return {"_FillValue": base64.standard_b64encode(struct.pack("<d", math.nan)).decode()}
    return {}


def _json_number(value: float | int) -> float | int | str:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value
