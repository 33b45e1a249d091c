"""Training with cues computed in every step, as the reference does: the baseline of the training benchmark.

Frames still come from the store, decoded; a run without one would pay for decoding as well.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

import stores
from lila_cues.config import BuildConfig
from lila_cues.networks import Execution, FrozenEncoder, load_depth, load_flow
from lila_cues.pamr import Affinity, refine, three_scales
from lila_train.model.resize import Size
from lila_train.training.config import DEPTH, FEATURES, FLOW, TrainConfig
from lila_train.training.data import PairBatch, PairDataset, load_pairs
from lila_train.training.targets import CUES
from lila_train.training.trainer import Trainer, Update

COMPUTABLE = (FLOW, DEPTH, FEATURES)


@dataclass(frozen=True)
class Refinement:
    """Sizes (y, x) and PAMR settings by which a store's cues were made."""

    cue: Size
    features: Size
    encoder_input: Size
    iterations: tuple[int, int, int]
    affinity: Affinity


@dataclass(frozen=True)
class Teachers:
    """The frozen networks as functions of RGB in [0, 1], f×3×y×x.

    encode: tokens f×e×h×w. flow: of images and pairs p×2 among them, p×2×y×x in px. depth: relative inverse depth
    f×y×x; None where a build took it from files, then it stays in the store.
    """

    encode: Callable[[Tensor], Tensor]
    flow: Callable[[Tensor, Tensor], Tensor]
    depth: Callable[[Tensor], Tensor] | None


class OnlineTrainer(Trainer):
    """A run that reads frames and computes flow, depth and features in every step."""

    def batches(self) -> Iterator[PairBatch]:
        config, encoder = self.config, self.train_step.encoder
        self.online = OnlineCues.of_store(self.store, encoder, config)
        dataset = online_dataset(self.dataset(), self.online.computed)
        return load_pairs(dataset, range(self.step, config.steps), self.rank, self.options.num_workers)

    def compute_gradients(self, batch: PairBatch, received: signal.Signals | None = None) -> Update:
        return super().compute_gradients(self.online(batch), received)


def online_dataset(dataset: PairDataset, computed: frozenset[str]) -> PairDataset:
    """Return the store's pairs without the computed cues."""
    skipped = {name for cue in computed for name in CUES[cue](dataset.config).arrays}
    arrays = [name for name in dataset.arrays if name not in skipped]
    return OnlineDataset(dataset.path, dataset.config, arrays, dataset.encoder_width, dataset.clips)


class OnlineDataset(PairDataset):
    """Pairs without stored features, that name the encoder's channels all the same."""

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        pair = super().__getitem__(position)
        if self.config.distilled == "online" or {"features", "features_raw"} & set(self.arrays):
            return pair
        kept = self.store.read("feature_channels", pair["clips"])
        return pair | {"channels": kept[pair["channels"]].astype(np.int64)}


class OnlineCues:
    """Puts the cues of docs/method.md into a batch that has only frames."""

    def __init__(self, teachers: Teachers, refinement: Refinement, config: TrainConfig) -> None:
        self._teachers, self._how = teachers, refinement
        made = [cue for cue in COMPUTABLE if cue in config.cues and (cue != DEPTH or teachers.depth is not None)]
        self.computed = frozenset(cue for cue in made if CUES[cue](config).arrays)
        self._raw = config.distilled == "raw"

    @classmethod
    def of_store(cls, store: stores.CueStore, encoder: FrozenEncoder, config: TrainConfig) -> OnlineCues:
        """Networks, their precision and sizes as a store was built; they go to the device of `encoder`, one of them."""
        networks, device = store.provenance["networks"], next(encoder.parameters()).device
        build = BuildConfig.from_dict(store.provenance["settings"], store.path)
        refinement = Refinement(
            store.spec.geometry.cue,
            store.spec.geometry.features,
            build.encoder_input(encoder.patch_size),
            build.pamr_iterations,
            Affinity(build.pamr_dilations, build.pamr_sigma),
        )
        flow, depth = networks["flow"], networks["depth"]
        updates = flow["settings"].get("updates")
        execution = Execution(build.precision, build.compile)

        @execution.prepare
        def encode(images: Tensor) -> Tensor:
            with execution.autocast(device):
                return encoder.grid(images)

        raft = load_flow(flow["network"], _place(flow), device, updates, execution)
        from_files = depth["network"] == "files"
        teachers = Teachers(
            encode,
            raft.between,
            None if from_files else load_depth(depth["network"], _place(depth), device, execution),
        )
        return cls(teachers, refinement, config)

    @torch.no_grad()
    def __call__(self, batch: PairBatch) -> PairBatch:
        """The batch with what is computed filled in, unquantised, on its device."""
        images = _resized(batch.rgb.flatten(0, 1), self._how.cue)
        found: dict[str, Tensor] = {}
        if DEPTH in self.computed:
            assert self._teachers.depth is not None
            found["depth"] = self._teachers.depth(images).float().unflatten(0, (-1, 2))
        if FLOW in self.computed:
            earlier = torch.arange(0, len(images), 2, device=images.device)
            pairs = torch.stack((earlier, earlier + 1), dim=1)
            both = self._teachers.flow(images, torch.cat((pairs, pairs.flip(1)))).float()
            found["flow_forward"], found["flow_backward"] = both.chunk(2)
        if FEATURES in self.computed:
            found["features_raw" if self._raw else "features"] = self._features(batch, images).unflatten(0, (-1, 2))
        return replace(batch, cues={**batch.cues, **found})

    def _features(self, batch: PairBatch, images: Float[Tensor, "f 3 y x"]) -> Float[Tensor, "f k y2 x2"]:
        tokens = self._teachers.encode(_resized(batch.rgb.flatten(0, 1), self._how.encoder_input)).float()
        channels = batch.channels.repeat_interleave(2, dim=0)[..., None, None]
        raw = tokens.gather(1, channels.expand(-1, -1, *tokens.shape[-2:]))
        if self._raw:
            return raw
        scales = three_scales(self._how.cue, self._how.iterations)
        return F.adaptive_avg_pool2d(refine(raw, images, scales, self._how.affinity), self._how.features)


def _place(record: Mapping[str, Any]) -> str | None:
    """Where the recorded weights lie, for those that no name leads to."""
    return record["location"] if record["origin"] in ("file", "random") else None


def _resized(frames: UInt8[Tensor, "f 3 H W"], size: Size) -> Float[Tensor, "f 3 y x"]:
    images = frames.float() / 255
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
