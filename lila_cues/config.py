"""Settings of stage one: `BuildConfig` is what shapes a store, `RunOptions` is where and how a build runs.

Plain data: importing this module loads neither PyTorch nor a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

import stores
from stores.config import Config
from stores.errors import LilaError, did_you_mean
from stores.spec import Count, Geometry, ShardClips, Side
from stores.store import CueStore

T = TypeVar("T")
Records = dict[str, dict[str, Any]]
"""By kind (encoder, depth, flow): origin, revision, hash and license of the weights, and how the network is run."""

DEPTH_FILES = "files:"


class BuildConfig(Config):
    """What shapes a store. Sizes are sides of squares in px.

    Per clip, A = frames − pairs anchors are stored, each with pairs / A partners, 1 to `max_gap` frames later.
    """

    own_options: ClassVar[frozenset[str]] = frozenset((
        "dataset", "limit", "seed", "decoder", "max_gap", "extra_cues", "profile", "encoder", "encoder_weights",
        "depth", "depth_weights", "flow", "flow_weights", "flow_updates", "attention", "precision", "compile",
        "rgb_codec", "base_size", "feature_size", "shard_clips",
    ))  # fmt: skip

    places: ClassVar[frozenset[str]] = frozenset(
        ("profile", "limit", "encoder_weights", "depth_weights", "flow_weights", "compile")
    )

    dataset: str = Field(description="Dataset: demo, videos, frames, kinetics, youtube-vos or davis.")
    limit: PositiveInt | None = Field(None, description="Number of clips, spread evenly over the dataset; none: all.")
    seed: NonNegativeInt = Field(0, description="Seed that selects frames and channels, and the scenes of the demo.")
    decoder: Literal["pyav", "decord", "torchcodec"] = Field(
        "pyav", description="Video decoder; decord and torchcodec refuse files on which they are not exact."
    )
    max_gap: PositiveInt = Field(5, description="T: largest distance of the frames of a pair, in source frames.")
    extra_cues: tuple[str, ...] = Field((), description="Additional cues, comma-separated: normals.")

    profile: str | None = Field(None, description="Networks and sizes: tiny, small, base or large.")
    encoder: str = Field(description="Encoder: a ViT of timm, or dinov2_vits14 and variants.")
    encoder_weights: str | None = Field(None, description="Weight file, or random:SEED; none: published weights.")
    depth: str = Field(description="Depth network, or files:DIR with 16-bit PNGs in mm, DIR/CLIP/FRAME.png.")
    depth_weights: str | None = Field(None, description="Weight file or directory; none: published weights.")
    flow: str = Field(description="Flow network: raft_large, raft_small or dis.")
    flow_weights: str | None = Field(None, description="Weight file; none: published weights.")
    flow_updates: PositiveInt | None = Field(None, description="RAFT's updates per pair; none: the network's own.")
    attention: Literal["sdpa", "xformers"] = Field("sdpa", description="Attention backend; xformers must be installed.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the networks; profiles small, base and large use bfloat16 on a GPU."
    )
    compile: bool = Field(False, description="Compile the networks: slow start, then faster.")

    rgb_codec: Literal["zstd", "jpeg"] = Field(
        "zstd", description="Codec of the stored RGB: lossless, or JPEG (4:4:4, quality 95): a quarter of the bytes."
    )
    base_size: Side = Field(480, description="Side of the stored RGB, the base crop, in px.")
    cue_size: Side = Field(224, description="Side of depth, flow and the last PAMR scale, in px.")
    feature_size: Side = Field(112, description="Side of the stored refined features, in px.")
    encoder_size: Side | None = Field(None, description="Side of the encoder's images, in px; none: the cue size.")
    depth_size: Side | None = Field(None, description="Side of the depth network's images, in px; none: the cue size.")
    flow_size: Side | None = Field(None, description="Side of the flow network's images, in px; none: the cue size.")
    channels: Count = Field(64, description="Encoder channels stored per clip.")
    frames: Count = Field(16, description="Frames stored per clip.")
    pairs: Count = Field(12, description="Pairs of frames stored per clip.")
    shard_clips: ShardClips = Field(16, description="Clips per file of the store, and per task of a build.")
    pamr_iterations: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (20, 10, 5), description="PAMR at a quarter, a half and the full size of the cue grid."
    )
    pamr_dilations: tuple[PositiveInt, ...] = Field((1, 3, 5), description="Dilations of PAMR's neighborhoods.")
    pamr_sigma: PositiveFloat = Field(0.05, description="PAMR's σ of color differences.")

    @classmethod
    def resolve(
        cls,
        options: Mapping[str, Any],
        assignments: Sequence[str] | None = None,
        config: Path | None = None,
        device: str = "cpu",
    ) -> BuildConfig:
        """Complete a command's options, where they are None, by a profile or by the settings of another store.

        Args:
            assignments: NAME=VALUE of --set, which override options.
            config: another store, or a JSON file of settings; None: the profile that the options name, by default
                tiny for the demo and without a GPU, else small.
            device: the chosen device.
        """
        given = cls.given(options, assignments)
        if config is not None:
            if "profile" in given:
                raise LilaError("expected --profile or --config, found both; leave one out")
            if config.is_dir():
                return cls.from_dict(stores.open(config).provenance.get("settings", {}), config).replace(**given)
            return cls.from_file(config, "a cue store or a JSON file of settings").replace(**given)
        default = "small" if device.startswith("cuda") and given.get("dataset") != "demo" else "tiny"
        name = given.setdefault("profile", default)
        if name not in PROFILES:
            found = f"{name}{did_you_mean(name, PROFILES)}"
            raise LilaError(f"expected a profile among {', '.join(PROFILES)}, found {found}; pass one with --profile")
        settings = PROFILES[name].settings
        if device.startswith("cuda") and name != "tiny":
            settings = {**settings, "precision": "bfloat16"}
        if "flow" in given:  # the profile's updates are those of its own network
            settings = {**settings, "flow_updates": None}
        return cls(**(settings | given))

    def encoder_input(self, patch_size: int) -> tuple[int, int]:
        """Return the size (y, x) of the encoder's images: the multiple of its patch that is nearest to the setting."""
        return (max(1, round((self.encoder_size or self.cue_size) / patch_size)) * patch_size,) * 2

    def input_sizes(self, patch_size: int) -> dict[str, tuple[int, int]]:
        """Return the size (y, x) of the images of each network, and of `cue`, which guide PAMR."""
        sides = {"cue": self.cue_size, "depth": self.depth_size, "flow": self.flow_size}
        sizes = {name: (side or self.cue_size,) * 2 for name, side in sides.items()}
        return {**sizes, "encoder": self.encoder_input(patch_size)}

    def geometry(self, patch_size: int, width: int) -> Geometry:
        """Return the sizes of a store, given the encoder's patch size in px and its number of channels."""
        rows, columns = self.encoder_input(patch_size)
        return Geometry(
            frames=self.frames,
            pairs=self.pairs,
            base=(self.base_size,) * 2,
            cue=(self.cue_size,) * 2,
            features=(self.feature_size,) * 2,
            encoder=(rows // patch_size, columns // patch_size),
            channels=min(self.channels, width),
        )

    def shaping(self) -> dict[str, Any]:
        """Return the settings that shape the data, as JSON values: all but the places of files."""
        return super().shaping() | ({"depth": DEPTH_FILES} if self.depth.startswith(DEPTH_FILES) else {})

    def with_absolute_paths(self) -> BuildConfig:
        """Return the same with absolute places of weights and depth maps, for processes elsewhere."""
        paths = {
            name: str(Path(place).absolute())
            for name in ("encoder_weights", "depth_weights", "flow_weights")
            if (place := getattr(self, name)) is not None and place.partition(":")[0] != "random"
        }
        if self.depth.startswith(DEPTH_FILES):
            paths["depth"] = DEPTH_FILES + str(Path(self.depth.removeprefix(DEPTH_FILES)).absolute())
        return self.replace(**paths)

    def fingerprint(self, records: Records) -> dict[str, Any]:
        """Return the settings that a store must share to be continued, with the hash of each network's weights.

        A network without a weight file has a revision instead.
        """
        weights = {kind: {key: record[key] for key in ("sha256", "revision")} for kind, record in records.items()}
        return {**self.shaping(), "weights": weights}


@dataclass(frozen=True)
class RunOptions:
    """Where and how a build runs: nothing here shapes the store."""

    root: Path  # dataset directory
    store: Path | None = None
    device: str = "auto"
    only_failed: bool = False  # retry the clips that failed before, and build no others
    max_failures: int | None = None  # stop when more clips than that have failed
    workers: int | None = None  # number of processes on this machine
    scheduler: str | None = None  # address of a Dask scheduler whose workers build
    shard: tuple[int, int] = (0, 1)  # this builder's share of the tasks: index from 0, number of builders
    clips_per_pass: int | None = None  # through the networks at once; None: one, on a GPU by its memory


def recorded_build(
    store: CueStore, root: Path | None = None, device: str | None = None
) -> tuple[BuildConfig, RunOptions]:
    """Return the settings and options of the build of a store; `root` and `device` replace the recorded ones."""
    recorded = store.provenance
    if "settings" not in recorded:
        raise LilaError(
            f"expected the settings of its build in {store.path}, found none; only stores that `lila-cues build` of "
            "this version wrote have them"
        )
    options = RunOptions(root or Path(recorded["root"]), device=device or recorded["device"])
    return BuildConfig.from_dict(recorded["settings"], store.path), options


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


def spread(clips: Sequence[T], limit: int | None) -> Sequence[T]:
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
