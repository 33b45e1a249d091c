"""Learned position embeddings on a grid other than the one they were learned on."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DINOV2_OFFSET = 0.1


def resize(
    embedding: Float[Tensor, "1 e h w"], grid: tuple[int, int], offset: float | None = None
) -> Float[Tensor, "1 e H W"]:
    """Resize bicubically to `grid` (y, x), in float32.

    With an offset, as the plain DINOv2 models do: the scale is (n + offset) / n₀ and nothing is smoothed
    (dinov2/models/vision_transformer.py, `interpolate_pos_encoding`). Without, as its register variants do:
    to the size, antialiased. A grid equal to the learned one is left alone by both.
    """
    learned = embedding.shape[-2:]
    if tuple(learned) == tuple(grid):
        return embedding
    values = embedding.float()
    if offset is None:
        resized = F.interpolate(values, size=grid, mode="bicubic", antialias=True)
    else:
        scale = ((grid[0] + offset) / learned[0], (grid[1] + offset) / learned[1])
        resized = F.interpolate(values, scale_factor=scale, mode="bicubic", antialias=False)
    assert tuple(resized.shape[-2:]) == tuple(grid)
    return resized.to(embedding.dtype)
