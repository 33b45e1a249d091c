"""Heights and widths: what they are of, maps brought to them, and the nearest one of whole patches.

Frames as networks see them: the size that a protocol asks for, and the tensor of that size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
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


Image = UInt8[np.ndarray, "H W 3"]
Labels = UInt8[np.ndarray, "H W"]


def network_size(native: Size, patch: int, short_side_px: int, long_side_multiple_px: int | None = None) -> Size:
    """Both sides multiples of the patch, the short one nearest to what is asked for, the aspect kept.

    The long side goes to the nearest multiple of the patch, or is rounded down to the multiple given, if that is one of
    the patch.
    """
    short = max(1, round(short_side_px / patch)) * patch
    ideal = short * max(native) / min(native)
    if long_side_multiple_px is not None and long_side_multiple_px % patch == 0:
        long = max(long_side_multiple_px, int(ideal // long_side_multiple_px) * long_side_multiple_px)
    else:
        long = max(1, round(ideal / patch)) * patch
    return (long, short) if native[0] > native[1] else (short, long)


def as_input(frame: Image, size: Size, device: torch.device) -> Float[Tensor, "1 3 y x"]:
    """RGB in [0, 1] at that size, bilinear and antialiased."""
    image = torch.tensor(frame, device=device).movedim(-1, 0)[None].float() / 255
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def to_whole_patches(images: Float[Tensor, "b 3 H W"], patch: int) -> Float[Tensor, "b 3 y x"]:
    """RGB in [0, 1] at the nearest size of whole patches, bilinear and antialiased; as it is where it has that size."""
    size = whole_patches(size_of(images), patch)
    if size == size_of(images):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
