"""Video object segmentation by a linear probe: `davis-lp@lila` (docs/protocols.md, "DAVIS").

A fresh probe, a 1×1 convolution per feature map, is trained on the first frame of each sequence and applied to every
later frame on its own. Settings are those of the LILA reference's launch scripts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.task import DavisTask, Frames, open_davis
from lila_train.evaluation.models import ENCODER, GridModel, feature_map
from lila_train.model.resize import Labels, Size, as_input, network_size, size_of, to_size

Map = Float[Tensor, "_ _ _"]  # channels, height, width: each map has its own
Vector = Float[Tensor, " n"]


@dataclass(frozen=True)
class LpSettings:
    """Settings that shape the scores: size of the frames, seed of the initial weights, AdamW."""

    seed: int = 0
    short_side_px: int | None = None  # None: short_side_patches × the encoder's patch size
    short_side_patches: int = 34
    lr: float = 5e-4
    weight_decay: float = 1e-4
    iterations: int = 2000


@dataclass(frozen=True)
class Problem:
    """Training data of one probe: feature maps, and the probability of each class at each pixel of the mask.

    The probe's parameters are one vector: for each map its weights (class by class), then its biases.
    """

    maps: Sequence[Map]
    target: Float[Tensor, "k H W"]

    def logits(self, parameters: Vector) -> Float[Tensor, "k H W"]:
        """Return the sum over maps of a 1×1 convolution, upsampled bilinearly to the target's size."""
        parts, n_classes, start = [], len(self.target), 0
        for features in self.maps:
            channels, height, width = features.shape
            end = start + n_classes * channels
            weights, biases = parameters[start:end].view(n_classes, channels), parameters[end : end + n_classes]
            local = (weights @ features.flatten(1) + biases[:, None]).view(1, n_classes, height, width)
            parts.append(to_size(local, size_of(self.target))[0])
            start = end + n_classes
        return torch.stack(parts).sum(dim=0)

    def loss(self, parameters: Vector) -> Float[Tensor, ""]:
        """Return the mean cross-entropy over the pixels of the mask."""
        return F.cross_entropy(self.logits(parameters)[None], self.target[None])


Fit = Callable[[Problem, Vector, LpSettings], Vector]


@torch.enable_grad()
def fit(problem: Problem, initial: Vector, settings: LpSettings) -> Vector:
    """Train a probe by full-batch AdamW, and return its parameters."""
    parameters = initial.clone().requires_grad_()
    optimizer = torch.optim.AdamW([parameters], lr=settings.lr, weight_decay=settings.weight_decay)
    for _ in range(settings.iterations):
        optimizer.zero_grad()
        problem.loss(parameters).backward()
        optimizer.step()
    return parameters.detach()


def initial_parameters(n_classes: int, channels: Sequence[int], seed: int, name: str) -> Float[Tensor, " n"]:
    """Return weights and biases uniform in ±1/√channels, as PyTorch initializes a 1×1 convolution.

    They depend on the seed and the sequence's name, not on the other sequences.
    """
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, zlib.crc32(name.encode())]))
    parts = [rng.uniform(-1, 1, n_classes * (count + 1)) / count**0.5 for count in channels]
    return torch.from_numpy(np.concatenate(parts)).float()


@dataclass(frozen=True)
class LinearProbeTask(DavisTask):
    """A linear probe on the encoder's grid, and on the pixel map for a head that has one."""

    probe: LpSettings
    fit: Fit = fit

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self.probe) | ({} if self.fit is fit else {"fast_probe": True})

    @torch.no_grad()
    def segment(self, model: GridModel, head: str, name: str, frames: Frames, first: Labels) -> Iterator[Labels]:
        """Train on the first frame, predict the others one by one."""
        size = self._frame_size(size_of(first), model.patch_size)
        feature_maps = [feature_map(model, each) for each in dict.fromkeys((ENCODER, head))]
        images = (as_input(frame, size, model.device) for frame in frames)
        maps = ([features(image)[0] for features in feature_maps] for image in images)
        reference = next(maps)
        labels = torch.from_numpy(first.astype(np.int64)).to(model.device)
        problem = Problem(reference, F.one_hot(labels).movedim(-1, 0).float())
        channels = [len(features) for features in reference]
        initial = initial_parameters(len(problem.target), channels, self.probe.seed, name)
        parameters = self.fit(problem, initial.to(model.device), self.probe)
        del reference
        problem = replace(problem, maps=[])  # the first frame's maps, hundreds of MB, are needed no longer
        for frame_maps in maps:
            logits = replace(problem, maps=frame_maps).logits(parameters)
            yield logits.argmax(dim=0).to(torch.uint8).cpu().numpy()

    def derived(self, model: GridModel) -> dict[str, Any]:
        native = self.native_size()
        return {"native_px": list(native), "frame_px": list(self._frame_size(native, model.patch_size))}

    def _frame_size(self, native: Size, patch_size: int) -> Size:
        short_side_px = self.probe.short_side_px or self.probe.short_side_patches * patch_size
        return network_size(native, patch_size, short_side_px)


def linear_probe_task(data: Path, config: EvalConfig, fit: Fit = fit) -> LinearProbeTask:
    """Open a DAVIS folder for `davis-lp@lila`; `fit` trains the probes."""
    settings = LpSettings(seed=config.seed, short_side_px=config.short_side)
    return LinearProbeTask("davis-lp@lila", open_davis(data, limit=config.limit), config, settings, fit)
