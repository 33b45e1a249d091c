"""PAMR: pixel-adaptive refinement, which carries a coarse map to the edges of an image.

Araslanov and Roth, "Single-stage semantic segmentation from image labels" (CVPR 2020), with the affinity, the three
scales and the iterations of docs/method.md. A step is the product of a sparse matrix, 24 weights per pixel, with the
map; no copy of the map per neighbour is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Stage:
    """Some iterations on one grid: `size` in y, x, or None for the guide's own."""

    size: tuple[int, int] | None
    iterations: int


@dataclass(frozen=True)
class Affinity:
    """How alike two pixels of the guide are: k = −mean_c |ΔI_c| / (eps + sigma · s_c), s_c their local deviation."""

    dilations: tuple[int, ...] = (1, 3, 5)
    sigma: float = 0.05
    eps: float = 1e-5


ORIGINAL = Affinity(sigma=0.1, eps=1e-8)  # of the CVPR 2020 paper, which has one stage only


def three_scales(size: tuple[int, int], iterations: tuple[int, int, int] = (20, 10, 5)) -> tuple[Stage, ...]:
    """A quarter, a half and the whole of a grid (y, x): 56², 112² and 224² for a cue grid of 224²."""
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
    """Refine a map along the edges of RGB in [0, 1]; its size is the last stage's.

    Float32, whatever autocast surrounds it. On a CPU the map comes back in channels-last order.
    """
    affinity = affinity or Affinity()
    with torch.autocast(features.device.type, enabled=False):
        layout = torch.contiguous_format if features.is_cuda else torch.channels_last
        refined = features.float().contiguous(memory_format=layout)
        for stage in stages:
            size = stage.size or (guide.shape[-2], guide.shape[-1])
            refined = _resized(refined, size)
            refined = _repeat(refined, _weights(_guide(guide, size), affinity), affinity, stage.iterations)
        return refined


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


def _guide(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resized in float64: in flat regions the affinity multiplies a rounding of the guide by up to 1e5."""
    return _resized(images.double(), size).float()


def _weights(guide: Float[Tensor, "b 3 h w"], affinity: Affinity) -> Float[Tensor, "b n h w"]:
    """a(p, ·): a softmax over the neighbours, in the order of `_offsets`."""
    offsets = _offsets(affinity.dilations)
    reach = max(affinity.dilations)
    padded = F.pad(guide, (reach,) * 4, mode="replicate")
    scale = 1 / (affinity.eps + affinity.sigma * _deviation(guide, padded, affinity.dilations))
    similarity = guide.new_empty(len(guide), len(offsets), *guide.shape[-2:])
    for index, offset in enumerate(offsets):
        difference = _shifted(padded, offset, reach, guide.shape).sub_(guide).abs_().mul_(scale)
        torch.mean(difference, dim=1, out=similarity[:, index])
    return torch.softmax(similarity.neg_(), dim=1)


def _deviation(guide: Tensor, padded: Tensor, dilations: tuple[int, ...]) -> Float[Tensor, "b 3 h w"]:
    """s_c: unbiased, over the samples of all windows; the centre counts once per window. Two passes, for exactness."""
    reach, windows = max(dilations), len(dilations)
    offsets = _offsets(dilations)
    mean = guide * windows
    for offset in offsets:
        mean += _view(padded, offset, reach, guide.shape)
    mean /= len(offsets) + windows
    squares = (guide - mean).square_().mul_(windows)
    for offset in offsets:
        squares += _shifted(padded, offset, reach, guide.shape).sub_(mean).square_()
    return squares.div_(len(offsets) + windows - 1).sqrt_()


def _repeat(maps: Tensor, weights: Tensor, affinity: Affinity, iterations: int) -> Tensor:
    """m(p) ← Σ_n a(p, n) m(n), as often as asked."""
    offsets = _offsets(affinity.dilations)
    if iterations and maps.is_cuda and find_spec("triton"):
        from lila_cues import pamr_triton

        return pamr_triton.repeat(maps, weights, offsets, iterations)
    places = neighbours((maps.shape[-2], maps.shape[-1]), offsets, maps.device)
    rows = [_repeat_one(*pair, places, iterations) for pair in zip(maps, weights, strict=True)]
    together = rows[0][None] if len(rows) == 1 else torch.stack(rows)
    return together.unflatten(1, maps.shape[-2:]).permute(0, 3, 1, 2)


def _repeat_one(
    values: Float[Tensor, "c h w"], weights: Float[Tensor, "n h w"], places: Int[Tensor, "p n"], iterations: int
) -> Float[Tensor, "p c"]:
    """The sparse product by `embedding_bag`: one bag per pixel, of its neighbours' rows; twice as fast as CSR.

    A row is a pixel, as a map in channels-last order has it already.
    """
    rows = values.permute(1, 2, 0).flatten(0, 1).contiguous()
    per_row = weights.flatten(1).T.contiguous()
    for _ in range(iterations):
        rows = F.embedding_bag(places, rows, per_sample_weights=per_row, mode="sum")
    return rows


def neighbours(size: tuple[int, int], offsets: Sequence[tuple[int, int]], device: torch.device) -> Int[Tensor, "p n"]:
    """For each pixel, row by row, the flat indices of its neighbours; beyond the border the nearest pixel stands in."""
    height, width = size
    steps = torch.tensor(offsets, device=device)
    rows = (torch.arange(height, device=device)[:, None] + steps[:, 0]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=device)[:, None] + steps[:, 1]).clamp_(0, width - 1)
    return (rows[:, None] * width + columns[None]).flatten(0, 1).int()


def _offsets(dilations: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Steps (y, x) to the 8 neighbours at each dilation, the centre left out."""
    ring = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    return tuple((y * dilation, x * dilation) for dilation in dilations for y, x in ring)


def _view(padded: Tensor, offset: tuple[int, int], reach: int, shape: torch.Size) -> Tensor:
    top, left = reach + offset[0], reach + offset[1]
    return padded[..., top : top + shape[-2], left : left + shape[-1]]


def _shifted(padded: Tensor, offset: tuple[int, int], reach: int, shape: torch.Size) -> Tensor:
    return _view(padded, offset, reach, shape).clone()
