"""Everything that decides what a build makes, as one frozen value that goes through JSON.

A store keeps it in its provenance, a cluster's worker receives it, and `recompute` reads it back; none of them passes
networks or readers around.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from lila_cues.pamr import Affinity
from stores.spec import Geometry

Records = dict[str, dict[str, Any]]
"""By kind (encoder, depth, flow): place, revision, hash and licence of the weights, and how the network is run."""


@dataclass(frozen=True)
class SourceChoice:
    """Which data set, where, and how it is decoded. `seed` is that of the demo's scenes."""

    name: str
    root: str
    decoder: str = "decord"
    seed: int = 0


@dataclass(frozen=True)
class NetworkChoice:
    """The three networks by name, their weights where not from the hub (a path, or random:SEED), and how they run."""

    encoder: str
    depth: str
    flow: str
    encoder_weights: str | None = None
    depth_weights: str | None = None
    flow_weights: str | None = None
    flow_updates: int | None = None
    attention: str = "sdpa"
    precision: str = "float32"
    compiled: bool = False


@dataclass(frozen=True)
class PamrChoice:
    """docs/method.md, "Cues": iterations at a quarter, a half and all of the cue grid, and the affinity."""

    iterations: tuple[int, int, int] = (20, 10, 5)
    dilations: tuple[int, ...] = (1, 3, 5)
    sigma: float = 0.05

    @property
    def affinity(self) -> Affinity:
        """How alike two pixels are."""
        return Affinity(dilations=self.dilations, sigma=self.sigma)


@dataclass(frozen=True)
class BuildRecipe:
    """One build. `seed` draws frames and channels; `max_gap` is T, the largest Δ in source frames."""

    source: SourceChoice
    networks: NetworkChoice
    geometry: Geometry
    encoder_input: tuple[int, int]
    """Size (y, x) of the images that the encoder sees, cut from the base crop."""
    device: str = "cpu"
    seed: int = 0
    max_gap: int = 5
    pamr: PamrChoice = field(default_factory=PamrChoice)
    extra_cues: tuple[str, ...] = ()
    """Names in `lila_cues.pipeline.derived`."""

    def to_dict(self) -> dict[str, Any]:
        """As a store's provenance keeps it under `recipe`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> BuildRecipe:
        """The inverse of `to_dict`, also after JSON has made lists of the tuples."""
        pamr: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry["pamr"].items()
        }
        return cls(
            source=SourceChoice(**entry["source"]),
            networks=NetworkChoice(**entry["networks"]),
            geometry=Geometry.from_dict(entry["geometry"]),
            encoder_input=tuple(entry["encoder_input"]),
            device=entry["device"],
            seed=entry["seed"],
            max_gap=entry["max_gap"],
            pamr=PamrChoice(**pamr),
            extra_cues=tuple(entry.get("extra_cues", ())),
        )

    def fingerprint(self, weights: Records) -> dict[str, Any]:
        """What shapes the data, but for geometry and extra cues, which are in the store's spec: no place, no device.

        `weights`: the record of each network, by kind.
        """
        shaping = ("network", "sha256", "revision", "settings")
        networks = {kind: {key: record[key] for key in shaping} for kind, record in weights.items()}
        return {
            "source": self.source.name,
            "decoder": self.source.decoder,
            "networks": networks,
            "encoder_input": list(self.encoder_input),
            "seed": self.seed,
            "max_gap": self.max_gap,
            "pamr": asdict(self.pamr),
        }
