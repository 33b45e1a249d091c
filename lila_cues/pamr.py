"""PAMR: pixel-adaptive refinement, which aligns a coarse map with the edges of an image.

Araslanov and Roth, "Single-stage semantic segmentation from image labels" (CVPR 2020), with the affinity, the three
scales and the iterations of docs/method.md. An iteration is the product of a sparse matrix, 24 weights per pixel, with
the map; no copy of the map per neighbor is ever made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stores.errors import first_line

logger = logging.getLogger(__name__)

Offset = tuple[int, int]  # px in y, x


@dataclass(frozen=True)
class Stage:
    """Iterations on one grid: `size` in y, x, or None for the guide's own."""

    size: tuple[int, int] | None
    iterations: int


@dataclass(frozen=True)
class Affinity:
    """Similarity of two pixels of the guide: k = −mean_c |ΔI_c| / (eps + sigma · s_c), s_c their local deviation."""

    dilations: tuple[int, ...] = (1, 3, 5)
    sigma: float = 0.05
    eps: float = 1e-5


ORIGINAL = Affinity(sigma=0.1, eps=1e-8)  # of the CVPR 2020 paper, which has one stage only


def three_scales(size: tuple[int, int], iterations: tuple[int, int, int] = (20, 10, 5)) -> tuple[Stage, ...]:
    """Return stages at a quarter, a half and the full size of a grid (y, x): 56², 112² and 224² for 224²."""
    return tuple(
        Stage((max(1, round(size[0] * part)), max(1, round(size[1] * part))), count)
        for part, count in zip((0.25, 0.5, 1.0), iterations, strict=True)
    )


@torch.no_grad()
def refine(
    features: Float[Tensor, "b c h w"],
    guide: Float[Tensor, "b 3 H W"],
    stages: Sequence[Stage],
    affinity: Affinity | None = None,
) -> Float[Tensor, "b c y x"]:
    """Refine a map along the edges of an RGB guide in [0, 1]; the result has the last stage's size.

    Runs in float32 under any autocast. On a CPU the result is in channels-last order.
    """
    affinity = affinity or Affinity()
    kernels = _gpu_kernels(features.device) if features.is_cuda else None
    with torch.autocast(features.device.type, enabled=False):
        layout = torch.contiguous_format if features.is_cuda else torch.channels_last
        refined = features.float().contiguous(memory_format=layout)
        for stage in stages:
            size = stage.size or (guide.shape[-2], guide.shape[-1])
            refined = _resize(refined, size)
            if not stage.iterations:
                continue
            # in float64: in flat regions the affinity multiplies a rounding of the guide by up to 1e5
            image = _resize(guide.double(), size).float()
            if kernels is None:
                refined = _iterate(refined, _weights(image, affinity), _offsets(affinity.dilations), stage.iterations)
            else:
                weights = kernels.affinity(image, affinity.dilations, affinity.sigma, affinity.eps)
                refined = kernels.iterate(refined, weights, affinity.dilations, stage.iterations)
        return refined


@cache
def _gpu_kernels(device: torch.device) -> ModuleType | None:
    """Return the module of the GPU kernels; None, with a warning, where Triton cannot build them."""
    try:
        from lila_cues import pamr_triton

        image = torch.zeros(1, 3, 4, 4, device=device)
        pamr_triton.iterate(image, pamr_triton.affinity(image, (1,), 1.0, 1.0), (1,), 1)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # of Triton, of its driver or of the C compiler that it calls
        logger.warning(
            "PAMR runs without its GPU kernels, many times slower: Triton cannot build them (%s)", first_line(error)
        )
        return None
    return pamr_triton


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


def _weights(guide: Float[Tensor, "b 3 h w"], affinity: Affinity) -> Float[Tensor, "b n h w"]:
    """Return a(p, ·): a softmax over the neighbors, in the order of `_offsets`."""
    (height, width), reach = guide.shape[-2:], max(affinity.dilations)
    padded = F.pad(guide, (reach,) * 4, mode="replicate")
    neighbors = [padded[..., reach + y :, reach + x :][..., :height, :width] for y, x in _offsets(affinity.dilations)]
    scale = 1 / (affinity.eps + affinity.sigma * _deviation(guide, neighbors, len(affinity.dilations)))
    similarity = guide.new_empty(len(guide), len(neighbors), height, width)
    for index, neighbor in enumerate(neighbors):
        difference = neighbor.clone().sub_(guide).abs_().mul_(scale)
        torch.mean(difference, dim=1, out=similarity[:, index])
    return torch.softmax(similarity.neg_(), dim=1)


def _deviation(guide: Tensor, neighbors: Sequence[Tensor], windows: int) -> Float[Tensor, "b 3 h w"]:
    """Return s_c, unbiased, over the samples of all windows (the center once per window); two passes, for exactness."""
    mean = guide * windows
    for neighbor in neighbors:
        mean += neighbor
    mean /= len(neighbors) + windows
    squares = (guide - mean).square_().mul_(windows)
    for neighbor in neighbors:
        squares += neighbor.clone().sub_(mean).square_()
    return squares.div_(len(neighbors) + windows - 1).sqrt_()


def _iterate(maps: Tensor, weights: Tensor, offsets: Sequence[Offset], iterations: int) -> Tensor:
    """Repeat m(p) ← Σ_n a(p, n) m(n).

    On a CPU the sparse product runs by `embedding_bag`, with one bag per pixel, of its neighbors' rows: twice as fast
    as CSR. A row is a pixel, as a map in channels-last order has it already.
    """
    (height, width), steps = maps.shape[-2:], torch.tensor(offsets, device=maps.device)
    y = (torch.arange(height, device=maps.device)[:, None] + steps[:, 0]).clamp_(0, height - 1)
    x = (torch.arange(width, device=maps.device)[:, None] + steps[:, 1]).clamp_(0, width - 1)
    indices = (y[:, None] * width + x[None]).flatten(0, 1).int()  # of each pixel's neighbors; the border is replicated
    refined = []
    for values, item_weights in zip(maps, weights, strict=True):
        rows = values.permute(1, 2, 0).flatten(0, 1).contiguous()
        per_row = item_weights.flatten(1).T.contiguous()
        for _ in range(iterations):
            rows = F.embedding_bag(indices, rows, per_sample_weights=per_row, mode="sum")
        refined.append(rows)
    batch = refined[0][None] if len(refined) == 1 else torch.stack(refined)
    return batch.unflatten(1, maps.shape[-2:]).permute(0, 3, 1, 2)


def _offsets(dilations: tuple[int, ...]) -> tuple[Offset, ...]:
    """Return the offsets of the 8 neighbors at each dilation, the center left out."""
    ring = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    return tuple((y * dilation, x * dilation) for dilation in dilations for y, x in ring)
