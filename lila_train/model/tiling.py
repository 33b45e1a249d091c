"""Features of images beyond memory: overlapping tiles, blended so that no seam shows.

Each tile fades in and out over the overlap by half a cosine; at every pixel the weights add up to one. The slabs
between the starts of successive tiles are finished one after the other, so that memory is that of a tile's width times
the image's shorter side, not of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from stores.errors import LilaError

Region = tuple[slice, slice]
FeaturesOf = Callable[[Shaped[Tensor, "1 3 _ _"]], Float[Tensor, "1 d _ _"]]


@dataclass(frozen=True)
class Tiling:
    """Side of a tile and least overlap of two, in pixels; tiles begin at multiples of `patch`, as tokens do."""

    tile: int
    overlap: int
    patch: int

    @classmethod
    def of(cls, tile: int, overlap: int | None, patch: int) -> Tiling:
        """The side rounded up to whole patches; a quarter of it overlaps unless told otherwise."""
        side = math.ceil(tile / patch) * patch
        overlap = side // 4 if overlap is None else overlap
        if not 0 <= overlap <= side - patch:
            raise LilaError(
                f"expected tiles of {side} px to overlap by 0 to {side - patch} px, found an overlap of {overlap}"
            )
        return cls(side, overlap, patch)

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side of `length` px, evenly spread; the last ends at or beyond its end."""
        if length <= self.tile:
            return [0]
        stride = (self.tile - self.overlap) // self.patch * self.patch
        patches = math.ceil((length - self.tile) / self.patch)
        count = math.ceil(patches * self.patch / max(stride, self.patch))
        return [i * patches // count * self.patch for i in range(count + 1)]

    def weights(self, length: int) -> list[Float[Tensor, " t"]]:
        """The weight of each tile's pixels along a side of `length` px; at each pixel they add up to one."""
        starts = self.starts(length)
        total = torch.zeros(starts[-1] + self.tile, dtype=torch.float64)
        fades = []
        for index, start in enumerate(starts):
            fade = torch.ones(self.tile, dtype=torch.float64)
            ramp = _ramp(self.overlap)
            if index:
                fade[: self.overlap] *= ramp
            if index < len(starts) - 1:
                fade[self.tile - self.overlap :] *= ramp.flip(0)
            total[start : start + self.tile] += fade
            fades.append(fade)
        return [(f / total[s : s + self.tile]).float() for s, f in zip(starts, fades, strict=True)]


def _ramp(length: int) -> Float[Tensor, " n"]:
    """From almost 0 to almost 1."""
    return (1 - torch.cos((torch.arange(length, dtype=torch.float64) + 0.5) * (math.pi / max(1, length)))) / 2


def slabs(
    image: Shaped[Tensor, "1 3 H W"], features_of: FeaturesOf, tiling: Tiling
) -> Iterator[tuple[Region, Float[Tensor, "d h w"]]]:
    """Finished features slab by slab along the longer side, with where they belong.

    Zero mean and unit variance over channels, on the device that `features_of` answers on.
    """
    wide = image.shape[-1] > image.shape[-2]
    for start, slab in _lengthwise(image.mT if wide else image, features_of, tiling, turned=wide):
        along = slice(start, start + slab.shape[1])
        yield ((slice(None), along), slab.mT) if wide else ((along, slice(None)), slab)


def _lengthwise(
    image: Shaped[Tensor, "1 3 L S"], features_of: FeaturesOf, tiling: Tiling, turned: bool
) -> Iterator[tuple[int, Float[Tensor, "d l S"]]]:
    """Slabs along the first of the two axes; an image that lies on its side is turned back for `features_of`."""
    length, side = image.shape[-2:]
    starts, fades = tiling.starts(length), tiling.weights(length)
    pending: Tensor | None = None
    for index, start in enumerate(starts):
        for offset, fade in zip(tiling.starts(side), tiling.weights(side), strict=True):
            part = image[..., start : start + tiling.tile, offset : offset + tiling.tile]
            found = features_of(part.mT)[0].mT if turned else features_of(part)[0]
            if pending is None:
                pending = found.new_zeros((len(found), tiling.tile, side), dtype=torch.float32)
            h, w = found.shape[-2:]
            weight = (fades[index][:h, None] * fade[:w]).to(found.device)
            pending[:, :h, offset : offset + w] += found.float() * weight
        assert pending is not None
        done = (starts[index + 1] if index + 1 < len(starts) else length) - start
        yield start, _normalised(pending[:, :done])
        kept = pending[:, done:].clone()
        pending.zero_()
        pending[:, : kept.shape[1]] = kept


def _normalised(x: Float[Tensor, "d h w"]) -> Float[Tensor, "d h w"]:
    """A mean of normalised vectors is shorter than they are: normalised again, over channels."""
    return F.layer_norm(x.movedim(0, -1), (len(x),), eps=1e-5).movedim(-1, 0)
