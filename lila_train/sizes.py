"""Heights and widths: what they are of, maps brought to them, and the nearest one of whole patches."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Size = tuple[int, int]
"""Height and width, in pixels or cells."""


def size_of(maps: Tensor) -> Size:
    """Height and width, the last two axes."""
    return maps.shape[-2], maps.shape[-1]


def to_size(maps: Float[Tensor, "b c h w"], size: Size) -> Float[Tensor, "b c H W"]:
    """Maps at that size, bilinear; as they are where they have it."""
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def whole_patches(size: Size, patch: int) -> Size:
    """The nearest multiples of the patch, at least one of it each."""
    return max(1, round(size[0] / patch)) * patch, max(1, round(size[1] / patch)) * patch
