"""A linear probe on feature maps, and full-batch AdamW on it at a fraction of its cost.

All of AdamW's iterations are taken, but most of their gradients are those of a coarse problem, the same maps and
labels averaged over cells, plus a correction: the difference to the full problem's gradient, which is computed now and
then and followed along a line in between. It changes slowly: some twenty full gradients serve 2,000 iterations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_train.model.resize import Size, size_of, to_size

CHANNELS_AT_ONCE = 16  # bounds the memory of averaging

Map = Float[Tensor, "_ _ _"]  # channels, height, width: each map has its own
Vector = Float[Tensor, " n"]


@dataclass(frozen=True)
class AdamW:
    """PyTorch's AdamW, full batch."""

    lr: float = 5e-4
    weight_decay: float = 1e-4
    iterations: int = 2000
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class Acceleration:
    """When the full gradient is computed anew: `tolerance` 0 means at every iteration, the plain loop.

    The error is that of the predicted correction, in units of AdamW's own scale of each parameter's gradient.
    """

    coarse_side: int = 60  # cells along the short side of the coarse problem
    tolerance: float = 1e-2
    longest_stride: int = 200


@dataclass(frozen=True)
class Problem:
    """Logits are the sum, over maps, of a 1×1 convolution with bias, brought bilinearly to the size of the target.

    `target` has a channel per class and sums to 1 over them. Parameters are one vector: per map weights, then biases.
    """

    maps: Sequence[Map]
    target: Float[Tensor, "k H W"]

    @property
    def n_classes(self) -> int:
        """Channels of the target."""
        return len(self.target)

    def logits(self, parameters: Vector) -> Float[Tensor, "k H W"]:
        """The sum of the maps' 1×1 convolutions, each brought to the target's size bilinearly."""
        return self._summed(self._local(parameters))

    def loss_and_gradient(self, parameters: Vector) -> tuple[float, Vector]:
        """Mean cross-entropy over pixels, and its gradient."""
        local = [part.requires_grad_() for part in self._local(parameters)]
        loss = F.cross_entropy(self._summed(local)[None], self.target[None])
        gradients = torch.autograd.grad(loss, local)
        parts = [
            torch.cat([(found.flatten(1) @ features.flatten(1).T).flatten(), found.sum(dim=(1, 2))])
            for found, features in zip(gradients, self.maps, strict=True)
        ]
        return loss.item(), torch.cat(parts)

    def coarse(self, side: int) -> Problem:
        """The same, averaged over cells, so that the short side has `side` of them (or as it is, where it is small)."""
        size = size_of(self.target)
        factor = max(1.0, min(size) / side)
        small = (math.ceil(size[0] / factor), math.ceil(size[1] / factor))
        return Problem(
            [_averaged(features, size, small) for features in self.maps], _averaged(self.target, size, small)
        )

    def _local(self, parameters: Vector) -> list[Float[Tensor, "k _ _"]]:
        found, start = [], 0
        for features in self.maps:
            channels, height, width = features.shape
            weights = parameters[start : start + self.n_classes * channels].view(self.n_classes, channels)
            start += weights.numel() + self.n_classes
            biases = parameters[start - self.n_classes : start, None]
            found.append((weights @ features.flatten(1) + biases).view(self.n_classes, height, width))
        return found

    def _summed(self, local: Sequence[Float[Tensor, "k _ _"]]) -> Float[Tensor, "k H W"]:
        return torch.stack([_at(part, size_of(self.target)) for part in local]).sum(dim=0)


@dataclass(frozen=True)
class Solution:
    """Where AdamW arrived, and how many full gradients it took."""

    parameters: Vector
    evaluations: int


@torch.no_grad()
def solve(problem: Problem, start: Vector, adamw: AdamW, how: Acceleration) -> Solution:
    """AdamW's result after all its iterations."""
    state = _Moments(start.clone(), torch.zeros_like(start), torch.zeros_like(start))
    coarse = problem.coarse(how.coarse_side) if how.tolerance > 0 else None
    correction = _Correction(how)
    while state.step < adamw.iterations:
        correction.renew(_gradient(problem, state.parameters) - _gradient(coarse, state.parameters), state.scale(adamw))
        for ahead in range(min(correction.stride, adamw.iterations - state.step)):
            state.advance(_gradient(coarse, state.parameters) + correction.at(ahead), adamw)
    return Solution(state.parameters, correction.renewals)


@dataclass
class _Moments:
    """AdamW's state."""

    parameters: Vector
    first: Vector
    second: Vector
    step: int = 0

    def advance(self, gradient: Vector, adamw: AdamW) -> None:
        """One iteration (Loshchilov and Hutter, Decoupled Weight Decay Regularization, algorithm 2)."""
        self.step += 1
        self.first.lerp_(gradient, 1 - adamw.beta1)
        self.second.lerp_(gradient.square(), 1 - adamw.beta2)
        self.parameters.mul_(1 - adamw.lr * adamw.weight_decay)
        unbiased = self.first / (1 - adamw.beta1**self.step)
        self.parameters.sub_(adamw.lr * unbiased / self.scale(adamw))

    def scale(self, adamw: AdamW) -> Vector:
        """The root mean square of each parameter's gradients, by which AdamW divides."""
        return (self.second / (1 - adamw.beta2 ** max(1, self.step))).sqrt() + adamw.eps


class _Correction:
    """Full minus coarse gradient: its latest value and slope, and for how long they are trusted."""

    def __init__(self, how: Acceleration) -> None:
        self._how = how
        self._value: Vector | None = None
        self._slope: Vector | None = None
        self.stride = 1
        self.renewals = 0

    def renew(self, value: Vector, scale: Vector) -> None:
        """Take in the value computed now; the next stride follows from how well it was predicted."""
        before, done = self._value, self.stride
        if before is None or self._how.tolerance == 0:
            self._slope = torch.zeros_like(value)
        else:
            error = ((value - self.at(done)) / scale).square().mean().sqrt().item()
            self._slope = (value - before) / done
            self.stride = self._next_stride(error)
        self._value = value
        self.renewals += 1

    def at(self, ahead: int) -> Vector:
        """The value expected so many iterations on."""
        assert self._value is not None
        assert self._slope is not None
        return self._value + self._slope * ahead

    def _next_stride(self, error: float) -> int:
        """The error of a line grows with the square of the stride."""
        fitting = self.stride * min(2.0, 0.9 * math.sqrt(self._how.tolerance / max(error, 1e-12)))
        longer = self.stride + 1 if error < 0.8 * self._how.tolerance else 1
        return min(self._how.longest_stride, max(int(fitting), longer))


def _gradient(problem: Problem | None, parameters: Vector) -> Vector:
    if problem is None:
        return torch.zeros_like(parameters)
    with torch.enable_grad():
        return problem.loss_and_gradient(parameters)[1]


def _at(values: Map, size: Size) -> Map:
    return to_size(values[None], size)[0]


def _averaged(values: Map, size: Size, small: Size) -> Map:
    """Brought to `size`, then averaged over cells: the mean of what the full problem sees there."""
    parts = [F.adaptive_avg_pool2d(_at(part, size), small) for part in values.split(CHANNELS_AT_ONCE)]
    return torch.cat(parts)
