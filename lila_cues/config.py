"""What a user asks of a build, as a frozen value; light to import, for a command line that answers at once.

Everything that decides what a build makes, as one frozen value that goes through JSON.

A store keeps it in its provenance, a cluster's worker receives it, and `recompute` reads it back; none of them passes
networks or readers around.

Profiles: a whole choice of networks and sizes under one name. Plain data; importing it loads no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lila_cues.datasets import locate, open_dataset
from lila_cues.datasets.base import Dataset, DatasetOptions
from lila_cues.networks import registry
from stores.errors import LilaError
from stores.spec import Geometry

if TYPE_CHECKING:
    from lila_cues.pamr import Affinity


@dataclass(frozen=True)
class Order:
    """The options of `lila-cues build` that shape the store; None: as the profile has it."""

    dataset: str
    root: str | None = None
    store: str | None = None
    profile: str | None = None
    limit: int | None = None
    seed: int = 0
    device: str = "auto"
    decoder: str = "decord"
    encoder: str | None = None
    encoder_weights: str | None = None
    depth: str | None = None
    depth_weights: str | None = None
    flow: str | None = None
    flow_weights: str | None = None
    flow_updates: int | None = None
    attention: str = "sdpa"
    precision: str = "float32"
    compiled: bool = False
    max_gap: int | None = None
    extra_cues: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Order:
        """From a command's options by their names, which are those of the fields; others are not looked at."""
        given = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        named: dict[str, Any] = {
            name: str(value) if isinstance(value, Path) else value for name, value in given.items()
        }
        return cls(**named)

    @property
    def path(self) -> Path:
        """Where the store is: --store, else `cues/DATASET.zarr`."""
        return Path(self.store) if self.store else Path("cues") / f"{self.dataset}.zarr"

    @property
    def source_root(self) -> Path:
        """Where the data lie: --root, else `$LILA_DATA/DATASET` or `data/DATASET`."""
        return locate(self.dataset, Path(self.root) if self.root else None)

    def source(self) -> Dataset:
        """The data set, found."""
        return open_dataset(self.dataset, self.source_root, DatasetOptions(self.decoder, self.seed))

    def clips(self, source: Dataset) -> Sequence[str]:
        """The clips to build: all, or `limit` of them spread evenly over the list."""
        return spread(source.clips(), self.limit)

    def to_dict(self) -> dict[str, Any]:
        """As a store's provenance keeps it under `request`."""
        return asdict(self)


def spread(clips: Sequence[str], limit: int | None) -> Sequence[str]:
    """`limit` of the clips at even distances; lists go class by class, and the first of them are no sample."""
    if limit is None or limit >= len(clips):
        return clips
    return [clips[int(index)] for index in np.linspace(0, len(clips) - 1, limit).round()]


def parse_shard(text: str | None) -> tuple[int, int]:
    """`i/n` as (i, n) with 0 ≤ i < n: the i-th of n builders that share the tasks."""
    if text is None:
        return (0, 1)
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or int(index) >= int(count):
        raise LilaError(
            f"expected --shard i/n with i from 0 to n−1, found {text}; "
            "in a SLURM array of 8: --array=0-7 and --shard $SLURM_ARRAY_TASK_ID/8"
        )
    return int(index), int(count)


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
        from lila_cues.pamr import Affinity

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
    """Names in `lila_cues.pipeline.cues`."""

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


@dataclass(frozen=True)
class Profile:
    """The networks by name, and the sizes of what they make. Sides are those of squares, in px.

    Per clip, A = frames − pairs anchors are kept, each with pairs / A later frames, 1 to `max_gap` frames after it.
    """

    name: str
    about: str
    encoder: str
    depth: str
    flow: str
    flow_updates: int | None  # of RAFT
    base_size: int = 480  # of the RGB kept, the shared base crop
    cue_size: int = 224  # of depth and flow, and of the last PAMR scale
    feature_size: int = 112  # of the refined features kept
    channels: int = 64
    frames: int = 16
    pairs: int = 12
    max_gap: int = 5
    pamr_iterations: tuple[int, int, int] = (20, 10, 5)  # at a quarter, a half and all of the cue grid

    def with_networks(self, encoder: str | None, depth: str | None, flow: str | None) -> Profile:
        """The profile with other networks where one is named."""
        return replace(self, encoder=encoder or self.encoder, depth=depth or self.depth, flow=flow or self.flow)


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="tiny",
            about="networks of the package, for the demo's rendered scenes; no download, no GPU",
            encoder="tiny",
            depth="tiny",
            flow="dis",
            flow_updates=None,
            base_size=240,
            cue_size=112,
            feature_size=56,
            channels=48,
            frames=8,
            pairs=6,
        ),
        Profile(
            name="small",
            about="free for any use; the default on a GPU",
            encoder="dinov2_vits14",
            depth="depth_anything_v2_small",
            flow="raft_large",
            flow_updates=12,
        ),
        Profile(
            name="base",
            about="as the paper's ViT-B; depth not for commerce",
            encoder="dinov2_vitb14",
            depth="depth_anything_v2_base",
            flow="raft_large",
            flow_updates=12,
        ),
        Profile(
            name="large",
            about="as the paper's ViT-L; depth not for commerce",
            encoder="dinov2_vitl14",
            depth="depth_anything_v2_large",
            flow="raft_large",
            flow_updates=20,
        ),
    )
}


def profile(name: str) -> Profile:
    """The profile of that name."""
    if name not in PROFILES:
        raise LilaError(f"expected a profile among {', '.join(PROFILES)}, found {name}; pass one with --profile")
    return PROFILES[name]


def default(dataset: str, device: str) -> str:
    """The name of the profile for a data set and a device: tiny for the demo and without a GPU, else small."""
    return "tiny" if dataset == "demo" or not device.startswith("cuda") else "small"


def default_notes(dataset: str, device: str) -> tuple[str, ...]:
    """What to say where the default was taken for want of a GPU: the tiny networks are no choice for real clips."""
    if dataset == "demo" or device.startswith("cuda"):
        return ()
    return (
        "no GPU here: profile tiny, whose networks know rendered scenes only; for results on real clips use a GPU, or "
        "--profile small, which is slow without one, or networks of your own (--encoder, --depth, --flow)",
    )


def licence_notes(chosen: Profile) -> tuple[str, ...]:
    """What to say before a build: which of the networks are not for commercial use."""
    networks = (
        registry.entry(kind, name.partition("@")[0])
        for kind, name in (
            (registry.ENCODER, chosen.encoder),
            (registry.DEPTH, chosen.depth),
            (registry.FLOW, chosen.flow),
        )
    )
    return tuple(
        f"{network.name} is under {network.licence.upper()}: neither it nor what is made with it may be used "
        "commercially; --depth depth_anything_v2_small is free for any use"
        for network in networks
        if network is not None and network.non_commercial
    )
