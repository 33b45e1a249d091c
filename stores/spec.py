"""What a store holds: sizes, shard length, and how each cue is kept. All of it stands in the store's attributes."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from stores import encodings
from stores.codecs import Blosc
from stores.encodings import Encoding, Plain, Rows, Steps

FORMAT = "lila-cue-store"
VERSION = 1

RGB = Plain("uint8", Blosc("zstd", 3, "noshuffle"))
DEPTH = Plain("float16", Blosc("zstd", 1, "bitshuffle"))
FLOW = Steps(1 / 64, "int16", Blosc("zstd", 3, "shuffle"))
FEATURES = Rows("int8", Blosc("zstd", 1, "bitshuffle"))
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
    encoding: Plain | Steps
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
