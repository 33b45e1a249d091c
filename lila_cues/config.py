"""Settings of stage one: `BuildConfig` is what shapes a store, `RunOptions` is where and how a build runs.

Plain data: importing this module loads neither PyTorch nor a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from stores.errors import LilaError
from stores.spec import Geometry

Records = dict[str, dict[str, Any]]
"""By kind (encoder, depth, flow): origin, revision, hash and licence of the weights, and how the network is run."""

NETWORK_FIELDS = (
    "encoder", "depth", "flow", "encoder_weights", "depth_weights", "flow_weights", "flow_updates",
    "attention", "precision", "compiled",
)  # fmt: skip


@dataclass(frozen=True)
class BuildConfig:
    """What shapes a store. Sizes are sides of squares in px.

    Per clip, A = frames − pairs anchors are stored, each with pairs / A partners, 1 to `max_gap` frames later.
    """

    dataset: str
    encoder: str
    depth: str  # a network, or files:DIR
    flow: str
    profile: str | None = None  # where values come from that the user has not given
    limit: int | None = None  # number of clips, spread evenly over the dataset
    seed: int = 0  # of frames and channels; of the demo, the scenes too
    decoder: str = "pyav"
    encoder_weights: str | None = None  # a path, or random:SEED; None: the published weights
    depth_weights: str | None = None
    flow_weights: str | None = None
    flow_updates: int | None = None  # of RAFT, per pair; None: as the network has it
    attention: str = "sdpa"
    precision: str = "float32"
    compiled: bool = False
    max_gap: int = 5  # T, the largest Δ in source frames
    extra_cues: tuple[str, ...] = ()  # names in lila_cues.pipeline.cues.DERIVED
    base_size: int = 480  # of the stored RGB, the base crop
    cue_size: int = 224  # of depth and flow, and of the last PAMR scale
    feature_size: int = 112  # of the stored refined features
    channels: int = 64
    frames: int = 16
    pairs: int = 12
    pamr_iterations: tuple[int, int, int] = (20, 10, 5)  # at a quarter, a half and the full size of the cue grid
    pamr_dilations: tuple[int, ...] = (1, 3, 5)
    pamr_sigma: float = 0.05

    @classmethod
    def resolve(cls, options: Mapping[str, Any], device: str) -> BuildConfig:
        """Complete a command's options, where they are None, by the profile that they name.

        The default profile is tiny for the demo and without a GPU, else small.
        """
        default = "small" if device.startswith("cuda") and options["dataset"] != "demo" else "tiny"
        name = options.get("profile") or default
        if name not in PROFILES:
            raise LilaError(f"expected a profile among {', '.join(PROFILES)}, found {name}; pass one with --profile")
        settings = PROFILES[name].settings
        given = {key.name: options[key.name] for key in fields(cls) if options.get(key.name) not in (None, "")}
        if "flow" in given:  # the profile's updates are those of its own network
            settings = {**settings, "flow_updates": None}
        return cls(**{**settings, **given, "profile": name})

    def encoder_input(self, patch_size: int) -> tuple[int, int]:
        """Return the size (y, x) of the encoder's images: the multiple of its patch that is nearest to the cue grid."""
        return (max(1, round(self.cue_size / patch_size)) * patch_size,) * 2

    def geometry(self, patch_size: int, width: int | None = None) -> Geometry:
        """Return the sizes of a store, given the encoder's patch size in px and its number of channels."""
        rows, columns = self.encoder_input(patch_size)
        return Geometry(
            frames=self.frames,
            pairs=self.pairs,
            base=(self.base_size,) * 2,
            cue=(self.cue_size,) * 2,
            features=(self.feature_size,) * 2,
            encoder=(rows // patch_size, columns // patch_size),
            channels=self.channels if width is None else min(self.channels, width),
        )

    def fingerprint(self, records: Records, patch_size: int) -> dict[str, Any]:
        """Return what shapes the data and is not in the store's spec (geometry, extra cues): no path, no device."""
        shaping = ("network", "sha256", "revision", "settings")
        return {
            "source": self.dataset,
            "decoder": self.decoder,
            "networks": {kind: {key: record[key] for key in shaping} for kind, record in records.items()},
            "encoder_input": list(self.encoder_input(patch_size)),
            "seed": self.seed,
            "max_gap": self.max_gap,
            "pamr": self._pamr(),
        }

    def recipe(self, options: RunOptions, patch_size: int, width: int) -> dict[str, Any]:
        """Return what a store keeps in its provenance, and `from_recipe` reads, to compute its clips again."""
        return {
            "source": {"name": self.dataset, "root": str(options.root), "decoder": self.decoder, "seed": self.seed},
            "networks": {name: getattr(self, name) for name in NETWORK_FIELDS},
            "geometry": asdict(self.geometry(patch_size, width)),
            "encoder_input": self.encoder_input(patch_size),
            "device": options.device,
            "seed": self.seed,
            "max_gap": self.max_gap,
            "pamr": self._pamr(),
            "extra_cues": self.extra_cues,
        }

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> tuple[BuildConfig, RunOptions]:
        """Read a recipe, also from JSON. KeyError or TypeError where something is missing or unknown."""
        source, geometry, pamr = recipe["source"], recipe["geometry"], recipe["pamr"]
        config = cls(
            dataset=source["name"],
            decoder=source["decoder"],
            **recipe["networks"],
            seed=recipe["seed"],
            max_gap=recipe["max_gap"],
            extra_cues=tuple(recipe.get("extra_cues", ())),
            base_size=geometry["base"][0],
            cue_size=geometry["cue"][0],
            feature_size=geometry["features"][0],
            channels=geometry["channels"],
            frames=geometry["frames"],
            pairs=geometry["pairs"],
            pamr_iterations=tuple(pamr["iterations"]),
            pamr_dilations=tuple(pamr["dilations"]),
            pamr_sigma=pamr["sigma"],
        )
        return config, RunOptions(root=Path(source["root"]), device=recipe["device"])

    def _pamr(self) -> dict[str, Any]:
        return {"iterations": self.pamr_iterations, "dilations": self.pamr_dilations, "sigma": self.pamr_sigma}


@dataclass(frozen=True)
class RunOptions:
    """Where and how a build runs: nothing here shapes the store."""

    root: Path | None = None  # dataset directory
    store: Path | None = None
    device: str = "auto"
    only_failed: bool = False  # retry the clips that failed before, and build no others
    max_failures: int | None = None  # stop when more clips than that have failed
    workers: int | None = None  # number of processes on this machine
    scheduler: str | None = None  # address of a Dask scheduler whose workers build
    shard: tuple[int, int] = (0, 1)  # this builder's share of the tasks: index from 0, number of builders


@dataclass(frozen=True)
class Profile:
    """Networks and sizes under one name: fields of `BuildConfig`."""

    about: str
    settings: dict[str, Any]


PROFILES: dict[str, Profile] = {
    "tiny": Profile(
        "networks of the package, for the demo's rendered scenes; no download, no GPU",
        {"encoder": "tiny", "depth": "tiny", "flow": "dis", "base_size": 240, "cue_size": 112, "feature_size": 56,
         "channels": 48, "frames": 8, "pairs": 6},
    ),
    "small": Profile(
        "free for any use; the default on a GPU",
        {"encoder": "dinov2_vits14", "depth": "depth_anything_v2_small", "flow": "raft_large", "flow_updates": 12},
    ),
    "base": Profile(
        "as the paper's ViT-B; depth not for commercial use",
        {"encoder": "dinov2_vitb14", "depth": "depth_anything_v2_base", "flow": "raft_large", "flow_updates": 12},
    ),
    "large": Profile(
        "as the paper's ViT-L; depth not for commercial use",
        {"encoder": "dinov2_vitl14", "depth": "depth_anything_v2_large", "flow": "raft_large", "flow_updates": 20},
    ),
}  # fmt: skip


def spread(clips: Sequence[str], limit: int | None) -> Sequence[str]:
    """Return `limit` clips at even distances (a dataset's list is sorted by class, so its head is no sample)."""
    if limit is None or limit >= len(clips):
        return clips
    return [clips[int(index)] for index in np.linspace(0, len(clips) - 1, limit).round()]


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return `i/n` as (i, n) with 0 ≤ i < n: the i-th of n builders that share the tasks."""
    if text is None:
        return (0, 1)
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or int(index) >= int(count):
        raise LilaError(
            f"expected --shard i/n with i from 0 to n−1, found {text}; "
            "in a SLURM array of 8: --array=0-7 and --shard $SLURM_ARRAY_TASK_ID/8"
        )
    return int(index), int(count)
