"""Probe3D's dense prediction head: four grids of an encoder, fused from deep to shallow (El Banani et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.evaluation.probes import FrozenFeatures
from lila_train.sizes import Size

WIDTH = 512


class ResidualUnit(nn.Module):
    """x + two 3×3 convolutions, each rectified."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """x + relu(conv(relu(conv(x))))."""
        return x + F.relu(self.second(F.relu(self.first(x))))


class DptProbe(nn.Module):
    """Four tapped blocks to `n_outputs` maps at the image's size; a pixel map, where there is one, adds its 1×1 share.

    Each block's grid goes through a 1×1 convolution and is doubled; from the deepest on, the sum so far plus the next
    grid's residual unit goes through another one; ×4, two 3×3 convolutions, then to size. Bilinear, aligned corners.
    """

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int, width: int = WIDTH) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(grid_width, width, 1) for _ in range(4))
        self.skip = nn.ModuleList(ResidualUnit(width) for _ in range(3))
        self.fuse = nn.ModuleList(ResidualUnit(width) for _ in range(4))
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, n_outputs, 3, padding=1)
        )
        self.pixels = None if pixel_width is None else nn.Conv2d(pixel_width, n_outputs, 1)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        """Outputs at the size of the images; logits or directions, as the loss takes them."""
        levels = [_scaled(reduce(tap), 2) for reduce, tap in zip(self.reduce, features.taps, strict=True)]
        found = _at(self.head(_scaled(self._fused(levels), 4)), features.size)
        if self.pixels is None or features.pixels is None:
            return found
        return found + _at(self.pixels(features.pixels), features.size)

    def _fused(self, levels: Sequence[Float[Tensor, "b c h w"]]) -> Float[Tensor, "b c h w"]:
        found = self.fuse[3](levels[3])
        for level in (2, 1, 0):
            found = self.fuse[level](self.skip[level](levels[level]) + found)
        return found


def _scaled(maps: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b c _ _"]:
    return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=True)


def _at(maps: Float[Tensor, "b c h w"], size: Size) -> Float[Tensor, "b c H W"]:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)
