"""Features of images that do not fit into memory: overlapping tiles, blended so that no seam shows.

A tile fades in and out over the overlap by half a cosine; at every pixel the weights add up to one. Slabs between the
starts of successive tiles are finished one after the other along the longer side, so that memory is that of a tile's
width times the image's shorter side, not of the image.
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


def slabs(
    image: Shaped[Tensor, "1 3 H W"], features_of: FeaturesOf, tiling: Tiling
) -> Iterator[tuple[Region, Float[Tensor, "d h w"]]]:
    """Yield features slab by slab along the longer side, and the region of each.

    `features_of` computes the features of a tile; like those, the yielded ones have zero mean and unit variance over
    channels, and are on the same device.
    """
    wide = image.shape[-1] > image.shape[-2]
    oriented = image.mT if wide else image  # length × side; a tile is turned back for `features_of`
    length, side = oriented.shape[-2:]
    starts, fades = tiling.starts(length), tiling.weights(length)
    pending: Tensor | None = None
    for index, start in enumerate(starts):
        for offset, fade in zip(tiling.starts(side), tiling.weights(side), strict=True):
            part = oriented[..., start : start + tiling.tile, offset : offset + tiling.tile]
            found = features_of(part.mT)[0].mT if wide else features_of(part)[0]
            if pending is None:
                pending = found.new_zeros((len(found), tiling.tile, side), dtype=torch.float32)
            h, w = found.shape[-2:]
            weight = (fades[index][:h, None] * fade[:w]).to(found.device)
            pending[:, :h, offset : offset + w] += found.float() * weight
        assert pending is not None
        done = (starts[index + 1] if index + 1 < len(starts) else length) - start
        # a mean of normalized vectors is shorter than they are, so it is normalized again
        slab = F.layer_norm(pending[:, :done].movedim(0, -1), (len(pending),), eps=1e-5).movedim(-1, 0)
        along = slice(start, start + done)
        yield ((slice(None), along), slab.mT) if wide else ((along, slice(None)), slab)
        kept = pending[:, done:].clone()
        pending.zero_()
        pending[:, : kept.shape[1]] = kept


@dataclass(frozen=True)
class Tiling:
    """Side of a tile and least overlap of two tiles, in pixels; tiles start at multiples of `patch`, as tokens do."""

    tile: int
    overlap: int
    patch: int

    @classmethod
    def of(cls, tile: int, overlap: int | None, patch: int) -> Tiling:
        """Round the side of a tile up to whole patches; `overlap` is a quarter of it by default."""
        side = math.ceil(tile / patch) * patch
        overlap = side // 4 if overlap is None else overlap
        if not 0 <= overlap <= side - patch:
            raise LilaError(
                f"expected tiles of {side} px to overlap by 0 to {side - patch} px, found an overlap of {overlap}"
            )
        return cls(side, overlap, patch)

    def starts(self, length: int) -> list[int]:
        """Return where tiles start along a side of `length` px, evenly spread; the last one reaches its end."""
        if length <= self.tile:
            return [0]
        stride = (self.tile - self.overlap) // self.patch * self.patch
        patches = math.ceil((length - self.tile) / self.patch)
        count = math.ceil(patches * self.patch / max(stride, self.patch))
        return [i * patches // count * self.patch for i in range(count + 1)]

    def weights(self, length: int) -> list[Float[Tensor, " t"]]:
        """Return the weight of each tile's pixels along a side of `length` px; at each pixel they add up to one."""
        starts = self.starts(length)
        total = torch.zeros(starts[-1] + self.tile, dtype=torch.float64)
        position = (torch.arange(self.overlap, dtype=torch.float64) + 0.5) * (math.pi / max(1, self.overlap))
        ramp = (1 - torch.cos(position)) / 2  # from almost 0 to almost 1
        fades = []
        for index, start in enumerate(starts):
            fade = torch.ones(self.tile, dtype=torch.float64)
            if index:
                fade[: self.overlap] *= ramp
            if index < len(starts) - 1:
                fade[self.tile - self.overlap :] *= ramp.flip(0)
            total[start : start + self.tile] += fade
            fades.append(fade)
        return [(f / total[s : s + self.tile]).float() for s, f in zip(starts, fades, strict=True)]
