"""Video object segmentation by a linear probe: `davis-lp@lila`.

A probe is fitted to the first frame of each sequence and applied to every later frame on its own. Settings are
those of the LILA reference's launch scripts (docs/protocols.md, "DAVIS").
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_train.evaluation.davis.fast_probe import Acceleration, AdamW, Map, Problem, solve
from lila_train.evaluation.davis.knn import Video
from lila_train.model.resize import Image, Labels, Size, network_size

NAME = "davis-lp@lila"

MapsOf = Callable[[Image], Sequence[Map]]


@dataclass(frozen=True)
class LpSettings:
    """What shapes the figures: the frame's size, AdamW, the seed of the probe's first weights."""

    seed: int = 0
    short_side_px: int | None = None  # None: short_side_patches × the encoder's patch
    short_side_patches: int = 34
    lr: float = 5e-4
    weight_decay: float = 1e-4
    iterations: int = 2000
    solver_tolerance: float = 1e-2  # 0 is the plain loop

    @property
    def adamw(self) -> AdamW:
        """Rate, decay and number of iterations of the full-batch optimiser."""
        return AdamW(self.lr, self.weight_decay, self.iterations)


def segment(video: Video, maps_of: MapsOf, settings: LpSettings) -> Iterator[Labels]:
    """Labels of every frame after the first, at native size; `maps_of` gives a frame's feature maps."""
    ordered = iter(video.frames)
    maps = maps_of(next(ordered))
    labels = torch.from_numpy(video.reference.astype(np.int64)).to(maps[0].device)
    target = F.one_hot(labels).movedim(-1, 0).float()
    start = first_weights(len(target), [len(found) for found in maps], settings.seed, video.name).to(target.device)
    acceleration = Acceleration(tolerance=settings.solver_tolerance)
    parameters = solve(Problem(maps, target), start, settings.adamw, acceleration).parameters
    del maps
    for frame in ordered:
        yield _predicted(maps_of(frame), target, parameters)


def first_weights(n_classes: int, channels: Sequence[int], seed: int, name: str) -> Float[Tensor, " n"]:
    """A 1×1 convolution's weights and biases per map, uniform in ±1/√channels as PyTorch draws them.

    A function of the seed and the sequence's name, whatever other sequences there are.
    """
    draw = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, zlib.crc32(name.encode())]))
    parts = [draw.uniform(-1, 1, n_classes * (count + 1)) / count**0.5 for count in channels]
    return torch.from_numpy(np.concatenate(parts)).float()


@torch.no_grad()
def _predicted(maps: Sequence[Map], target: Float[Tensor, "k H W"], parameters: Float[Tensor, " n"]) -> Labels:
    return Problem(maps, target).logits(parameters).argmax(dim=0).to(torch.uint8).cpu().numpy()


def size_of(native: Size, patch: int, settings: LpSettings) -> Size:
    """The size of the frames that the network sees."""
    return network_size(native, patch, settings.short_side_px or settings.short_side_patches * patch)
