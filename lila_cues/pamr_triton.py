"""PAMR as two GPU kernels: the affinity of all neighbors of a tile of pixels, and one iteration on a tile.

An iteration moves the map and the weights about once from memory and the result once back. Imported only where Triton
is installed and the map is on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

PIXELS = 128
CHANNELS = 16
AFFINITY_PIXELS = 64


@triton.jit
def _step(neighbor: tl.tensor, dilations: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return y and x of an offset, in the order of `pamr._offsets`: 8 neighbors per dilation."""
    dilation = neighbor * 0
    for ring in tl.static_range(len(dilations)):
        dilation = tl.where(neighbor // 8 == ring, dilations[ring], dilation)
    place = neighbor % 8
    place += place // 4  # the center is left out
    return (place // 3 - 1) * dilation, (place % 3 - 1) * dilation


@triton.jit
def _affinity(
    guide: tl.tensor,
    result: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    sigma: tl.tensor,
    eps: tl.tensor,
    dilations: tl.constexpr,
    rows: tl.constexpr,
    pixels: tl.constexpr,
) -> None:
    neighbors: tl.constexpr = 8 * len(dilations)
    samples: tl.constexpr = 9 * len(dilations)  # of the deviation: the center counts once per dilation
    size = height * width
    item = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * pixels + tl.arange(0, pixels)
    inside = pixel < size
    neighbor = tl.arange(0, rows)  # `neighbors`, rounded up to a power of two
    counted = (neighbor < neighbors)[:, None]
    down, across = _step(neighbor, dilations)
    near_row = tl.minimum(tl.maximum((pixel // width)[None, :] + down[:, None], 0), height - 1)
    near_column = tl.minimum(tl.maximum((pixel % width)[None, :] + across[:, None], 0), width - 1)
    place = near_row * width + near_column
    total = tl.zeros((rows, pixels), tl.float32)
    for channel in range(3):
        plane = guide + (item * 3 + channel) * size
        center = tl.load(plane + pixel, mask=inside, other=0.0)
        near = tl.load(plane + place, mask=counted & inside[None, :], other=0.0)
        mean = (tl.sum(near, axis=0) + len(dilations) * center) / samples
        distance = tl.where(counted, near - mean[None, :], 0.0)
        squares = tl.sum(distance * distance, axis=0) + len(dilations) * (center - mean) * (center - mean)
        scale = 1 / (eps + sigma * tl.sqrt(squares / (samples - 1)))
        total += tl.abs(near - center[None, :]) * scale[None, :]
    similarity = tl.where(counted, -total / 3, float("-inf"))
    share = tl.exp(similarity - tl.max(similarity, axis=0)[None, :])
    share = share / tl.sum(share, axis=0)[None, :]
    target = result + (item * neighbors + neighbor[:, None]) * size + pixel[None, :]
    tl.store(target, share, mask=counted & inside[None, :])


@triton.jit
def _iteration(
    maps: tl.tensor,
    weights: tl.tensor,
    result: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    dilations: tl.constexpr,
    pixels: tl.constexpr,
    group: tl.constexpr,
) -> None:
    neighbors: tl.constexpr = 8 * len(dilations)
    groups = tl.cdiv(channels, group)
    item = (tl.program_id(1) // groups).to(tl.int64)
    size = height * width
    channel = (tl.program_id(1) % groups) * group + tl.arange(0, group)
    pixel = tl.program_id(0) * pixels + tl.arange(0, pixels)
    row, column = pixel // width, pixel % width
    inside = pixel < size
    both = (channel[:, None] < channels) & inside[None, :]
    planes = maps + (item * channels + channel[:, None]) * size
    total = tl.zeros((group, pixels), tl.float32)
    for neighbor in range(neighbors):
        down, across = _step(neighbor, dilations)
        near_row = tl.minimum(tl.maximum(row + down, 0), height - 1)
        near_column = tl.minimum(tl.maximum(column + across, 0), width - 1)
        weight = tl.load(weights + (item * neighbors + neighbor) * size + pixel, mask=inside, other=0.0)
        near = tl.load(planes + (near_row * width + near_column)[None, :], mask=both, other=0.0)
        total += weight[None, :] * near
    tl.store(result + (item * channels + channel[:, None]) * size + pixel[None, :], total, mask=both)


def affinity(
    guide: Float[Tensor, "b 3 h w"], dilations: tuple[int, ...], sigma: float, eps: float
) -> Float[Tensor, "b n h w"]:
    """Return a(p, ·), as `pamr._weights`."""
    batch, _, height, width = guide.shape
    neighbors = 8 * len(dilations)
    result = guide.new_empty(batch, neighbors, height, width)
    grid = (triton.cdiv(height * width, AFFINITY_PIXELS), batch)
    with torch.cuda.device_of(guide):  # Triton launches on the current device, whatever that of its arguments
        _affinity[grid](
            guide.contiguous(), result, height, width, sigma, eps, dilations=dilations,
            rows=triton.next_power_of_2(neighbors), pixels=AFFINITY_PIXELS, enable_fp_fusion=True,
        )  # fmt: skip
    return result


def iterate(
    maps: Float[Tensor, "b c h w"], weights: Float[Tensor, "b n h w"], dilations: tuple[int, ...], iterations: int
) -> Float[Tensor, "b c h w"]:
    """Repeat m(p) ← Σ_n a(p, n) m(p + offset n), the border replicated, at least once; allocates two maps."""
    batch, channels, height, width = maps.shape
    grid = (triton.cdiv(height * width, PIXELS), batch * triton.cdiv(channels, CHANNELS))
    current, spare = maps.contiguous(), torch.empty_like(maps, memory_format=torch.contiguous_format)
    weights = weights.contiguous()
    for iteration in range(iterations):
        with torch.cuda.device_of(maps):
            _iteration[grid](
                current, weights, spare, channels, height, width,
                dilations=dilations, pixels=PIXELS, group=CHANNELS, enable_fp_fusion=True,
            )  # fmt: skip
        following = spare
        spare = torch.empty_like(spare) if iteration == 0 and iterations > 1 else current
        current = following
    return current
