"""What a store holds: sizes, shard length, and how each cue is kept. All of it stands in the store's attributes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
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
class StoreSpec:
    """Geometry, clips per shard, and the encoding of each cue (defaults: tests/benchmarks/store_encodings.py)."""

    geometry: Geometry
    shard_clips: int = 16
    rgb: Encoding = RGB
    depth: Encoding = DEPTH
    flow: Encoding = FLOW
    features: Encoding = FEATURES

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a store's attributes."""
        cues = {name: encodings.to_dict(getattr(self, name)) for name in _cue_names()}
        geometry = {name: list(value) if isinstance(value, tuple) else value for name, value in self._sizes()}
        return {"geometry": geometry, "shard_clips": self.shard_clips, **cues}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> StoreSpec:
        """The inverse of `to_dict`; KeyError or TypeError where something is missing or unknown."""
        cues = {name: encodings.from_dict(entry[name]) for name in _cue_names()}
        return cls(geometry=Geometry.from_dict(entry["geometry"]), shard_clips=entry["shard_clips"], **cues)

    def _sizes(self) -> list[tuple[str, Any]]:
        return list(asdict(self.geometry).items())


def _cue_names() -> list[str]:
    return [field.name for field in fields(StoreSpec) if field.name not in ("geometry", "shard_clips")]
