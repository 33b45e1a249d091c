"""PAMR's iteration as one GPU kernel: a tile of pixels times a few channels, the neighbors read through the caches.

An iteration moves the map and the weights about once from memory and the result once back. Imported only where Triton
is installed and the map is on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

PIXELS = 128
CHANNELS = 16


@triton.jit
def _kernel(
    maps: tl.tensor,
    weights: tl.tensor,
    result: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    neighbors: tl.constexpr,
    pixels: tl.constexpr,
    group: tl.constexpr,
) -> None:
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
        near_row = tl.minimum(tl.maximum(row + tl.load(rows + neighbor), 0), height - 1)
        near_column = tl.minimum(tl.maximum(column + tl.load(columns + neighbor), 0), width - 1)
        weight = tl.load(weights + (item * neighbors + neighbor) * size + pixel, mask=inside, other=0.0)
        near = tl.load(planes + (near_row * width + near_column)[None, :], mask=both, other=0.0)
        total += weight[None, :] * near
    tl.store(result + (item * channels + channel[:, None]) * size + pixel[None, :], total, mask=both)


def iterate(
    maps: Float[Tensor, "b c h w"],
    weights: Float[Tensor, "b n h w"],
    offsets: Sequence[tuple[int, int]],
    iterations: int,
) -> Float[Tensor, "b c h w"]:
    """Repeat m(p) ← Σ_n a(p, n) m(p + offset n), the border replicated, at least once; allocates two maps."""
    batch, channels, height, width = maps.shape
    steps = torch.tensor(offsets, dtype=torch.int32, device=maps.device)
    rows, columns = steps[:, 0].contiguous(), steps[:, 1].contiguous()
    grid = (triton.cdiv(height * width, PIXELS), batch * triton.cdiv(channels, CHANNELS))
    current, spare = maps.contiguous(), torch.empty_like(maps, memory_format=torch.contiguous_format)
    weights = weights.contiguous()
    for iteration in range(iterations):
        _kernel[grid](
            current, weights, spare, rows, columns, channels, height, width,
            neighbors=len(offsets), pixels=PIXELS, group=CHANNELS, enable_fp_fusion=True,
        )  # fmt: skip
        following = spare
        spare = torch.empty_like(spare) if iteration == 0 and iterations > 1 else current
        current = following
    return current
