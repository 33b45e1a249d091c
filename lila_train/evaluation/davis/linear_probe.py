"""Video object segmentation by a linear probe: `davis-lp@lila` (docs/protocols.md, "DAVIS").

A fresh probe, a 1×1 convolution per feature map, is trained on the first frame of each sequence and applied to every
later frame on its own. Settings are those of the LILA reference's launch scripts.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.task import Frames, FrameSettings, MaskTask, open_davis
from lila_train.evaluation.dense.data import generator
from lila_train.evaluation.models import ENCODER, GridModel, feature_map
from lila_train.model.resize import Labels, as_input, size_of, to_size

CHANNELS_AT_ONCE = 16  # bounds the memory of averaging

Map = Float[Tensor, "_ _ _"]  # channels, height, width: each map has its own
Vector = Float[Tensor, " n"]


@dataclass(frozen=True)
class LpSettings(FrameSettings):
    """Settings that shape the scores: size of the frames, seed of the initial weights, AdamW."""

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


@torch.no_grad()
def fit_fast(
    problem: Problem,
    initial: Vector,
    settings: LpSettings,
    coarse_side: int = 60,
    tolerance: float = 1e-2,
    max_stride: int = 200,
) -> Vector:
    """Return what `fit` returns, up to a small error, many times faster (`--fast-probe`).

    All iterations are taken, but most of their gradients are those of a coarse problem, the same maps and labels
    averaged over cells, plus a correction: the difference to the gradient of the full problem, which is computed now
    and then and extrapolated linearly in between. It changes slowly: some twenty full gradients serve 2,000 iterations.

    The coarse problem has `coarse_side` cells along its short side. `tolerance` is the accepted error of the
    extrapolated correction, in units of the root mean square of each parameter's gradients, by which AdamW divides;
    `max_stride` limits the iterations between two gradients of the full problem.
    """
    coarse = coarsened(problem, coarse_side)
    parameters = initial.clone()
    optimizer = torch.optim.AdamW([parameters], lr=settings.lr, weight_decay=settings.weight_decay)
    (_, beta), eps = optimizer.defaults["betas"], optimizer.defaults["eps"]
    correction, slope = torch.zeros_like(initial), torch.zeros_like(initial)
    stride, steps = 1, 0
    while steps < settings.iterations:
        current = _gradient(problem, parameters) - _gradient(coarse, parameters)
        if steps > 0:
            scale = (optimizer.state[parameters]["exp_avg_sq"] / (1 - beta**steps)).sqrt() + eps
            error = ((current - (correction + slope * stride)) / scale).square().mean().sqrt().item()
            slope = (current - correction) / stride
            # The error of a linear extrapolation grows with the square of the stride.
            fitting = int(stride * min(2.0, 0.9 * math.sqrt(tolerance / max(error, 1e-12))))
            stride = min(max_stride, max(fitting, stride + 1 if error < 0.8 * tolerance else 1))
        correction = current
        for ahead in range(min(stride, settings.iterations - steps)):
            parameters.grad = _gradient(coarse, parameters) + (correction + slope * ahead)
            optimizer.step()
            steps += 1
    return parameters


def coarsened(problem: Problem, side: int) -> Problem:
    """Average maps and target over cells so that the short side has `side` of them; a smaller one keeps its size."""
    size = size_of(problem.target)
    factor = max(1.0, min(size) / side)
    small = (math.ceil(size[0] / factor), math.ceil(size[1] / factor))
    averaged = [  # upsampled first: the mean of what the full problem sees in a cell
        torch.cat(
            [F.adaptive_avg_pool2d(to_size(part[None], size)[0], small) for part in values.split(CHANNELS_AT_ONCE)]
        )
        for values in (*problem.maps, problem.target)
    ]
    return Problem(averaged[:-1], averaged[-1])


def _gradient(problem: Problem, parameters: Vector) -> Vector:
    with torch.enable_grad():
        variable = parameters.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(problem.loss(variable), variable)
    return gradient


def initial_parameters(n_classes: int, channels: Sequence[int], seed: int, name: str) -> Float[Tensor, " n"]:
    """Return weights and biases uniform in ±1/√channels, as PyTorch initializes a 1×1 convolution.

    They depend on the seed and the sequence's name, not on the other sequences.
    """
    rng = generator(seed, 0, 0, zlib.crc32(name.encode()))
    parts = [rng.uniform(-1, 1, n_classes * (count + 1)) / count**0.5 for count in channels]
    return torch.from_numpy(np.concatenate(parts)).float()


@dataclass(frozen=True)
class LinearProbeTask(MaskTask):
    """A linear probe on the encoder's grid, and on the pixel map for a head that has one."""

    rule: LpSettings
    fit: Fit = fit

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | ({} if self.fit is fit else {"fast_probe": True})

    @torch.no_grad()
    def segment(self, model: GridModel, head: str, name: str, frames: Frames, first: Labels) -> Iterator[Labels]:
        """Train on the first frame, predict the others one by one."""
        size = self.rule.frame_size(size_of(first), model.patch_size)
        feature_maps = [feature_map(model, each) for each in dict.fromkeys((ENCODER, head))]
        images = (as_input(frame, size, model.device, self.rule.antialias) for frame in frames)
        maps = ([features(image)[0] for features in feature_maps] for image in images)
        reference = next(maps)
        labels = torch.from_numpy(first.astype(np.int64)).to(model.device)
        problem = Problem(reference, F.one_hot(labels).movedim(-1, 0).float())
        channels = [len(features) for features in reference]
        initial = initial_parameters(len(problem.target), channels, self.rule.seed, name)
        parameters = self.fit(problem, initial.to(model.device), self.rule)
        del reference
        problem = replace(problem, maps=[])  # the first frame's maps, hundreds of MB, are needed no longer
        for frame_maps in maps:
            logits = replace(problem, maps=frame_maps).logits(parameters)
            yield logits.argmax(dim=0).to(torch.uint8).cpu().numpy()


def linear_probe_task(data: Path, config: EvalConfig) -> LinearProbeTask:
    """Open a DAVIS folder for `davis-lp@lila`."""
    settings = LpSettings(seed=config.seed, short_side_px=config.short_side)
    solver = fit_fast if config.fast_probe else fit
    opened = open_davis(data, config.limit, config.year)
    return LinearProbeTask("davis-lp@lila", opened, config.replace(year=opened.year), settings, solver)
