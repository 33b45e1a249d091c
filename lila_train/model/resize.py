"""Sizes of images and maps, and resizing to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

Size = tuple[int, int]
"""Height and width, in pixels or cells."""
Resize = Callable[[Tensor, Size, int, int], Tensor]
"""Resizes maps, and returns the rows of the result from the first to before the second number."""

Image = UInt8[np.ndarray, "H W 3"]
Labels = UInt8[np.ndarray, "H W"]


def size_of(maps: Tensor | np.ndarray) -> Size:
    """Return height and width, the last two axes."""
    return maps.shape[-2], maps.shape[-1]


def whole_patches(size: Size, patch: int) -> Size:
    """Return the nearest multiples of the patch size, at least one patch each."""
    return max(1, round(size[0] / patch)) * patch, max(1, round(size[1] / patch)) * patch


def network_size(native: Size, patch: int, short_side_px: int, long_side_multiple_px: int | None = None) -> Size:
    """Return the size of a network's input: multiples of the patch size, the aspect ratio kept.

    The short side is the multiple nearest to `short_side_px`; the long side is the nearest multiple, or is rounded down
    to a multiple of `long_side_multiple_px` where that is a multiple of the patch size.
    """
    short = max(1, round(short_side_px / patch)) * patch
    ideal = short * max(native) / min(native)
    if long_side_multiple_px is not None and long_side_multiple_px % patch == 0:
        long = max(long_side_multiple_px, int(ideal // long_side_multiple_px) * long_side_multiple_px)
    else:
        long = max(1, round(ideal / patch)) * patch
    return (long, short) if native[0] > native[1] else (short, long)


def to_size(maps: Float[Tensor, "b c h w"], size: Size) -> Float[Tensor, "b c H W"]:
    """Resize bilinearly; maps that have the size are returned as they are."""
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def align_corners(
    maps: Float[Tensor, "b c h w"], size: Size, begin: int = 0, end: int | None = None
) -> Float[Tensor, "b c _ W"]:
    """Resize bilinearly with aligned corners, in the type of the maps: autocast would return float32.

    Only rows from `begin` to before `end` of the result are computed, with channels last in memory unless it is whole.
    """
    end = size[0] if end is None else end
    if end - begin < size[0]:
        last = maps.shape[2] - 1
        places = torch.arange(begin, end, device=maps.device, dtype=torch.float64) * (last / (size[0] - 1))
        above, rows = places.long(), maps.movedim(1, -1)
        weights = (places - above).to(maps.dtype)[:, None, None]
        maps = torch.lerp(rows[:, above], rows[:, (above + 1).clamp(max=last)], weights).movedim(-1, 1)
    with torch.autocast(maps.device.type, enabled=False):
        return F.interpolate(maps, (end - begin, size[1]), mode="bilinear", align_corners=True)


def sample_at(
    features: Float[Tensor, "d h w"], places: Float[Tensor, "n 2"], nearest: bool = False
) -> Float[Tensor, "n d"]:
    """Return features at places x, y in [0, 1] over the map's sides: bilinear, or those of the cell around each."""
    if nearest:
        columns, rows = (
            (places[:, n] * side).long().clamp(0, side - 1)
            for n, side in ((0, features.shape[2]), (1, features.shape[1]))
        )
        return features[:, rows, columns].T
    grid = (2 * places - 1)[None, None]
    return F.grid_sample(features[None], grid, padding_mode="border", align_corners=False)[0, :, 0].T


def to_whole_patches(images: Float[Tensor, "b 3 H W"], patch: int) -> Float[Tensor, "b 3 y x"]:
    """Resize RGB in [0, 1] to the nearest multiples of the patch size, bilinear and antialiased."""
    size = whole_patches(size_of(images), patch)
    if size == size_of(images):
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def as_input(frame: Image, size: Size, device: torch.device, antialias: bool) -> Float[Tensor, "1 3 y x"]:
    """Return a frame as RGB in [0, 1] at `size`, bilinear."""
    image = torch.tensor(frame, device=device).movedim(-1, 0)[None].float() / 255
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=antialias).clamp(0, 1)
