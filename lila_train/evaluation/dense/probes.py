"""Probe3D's dense prediction head: four grids of an encoder, fused from deep to shallow (El Banani et al., 2024).

Probes on frozen features: what is trained on top, per protocol. Logits come out at the size of the image.

A probe is given the encoder's grid, and for a head with a pixel map that map too; `None` where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.evaluation.models import ENCODER, GridModel, PixelModel
from lila_train.model.resize import Size, size_of, to_size, to_whole_patches

HEADS = 8  # of the attention probe
POOLED = 4  # how much smaller the map is that it looks at

_SEEDING = Lock()  # PyTorch draws first weights from one generator for the whole process


@dataclass(frozen=True)
class FrozenFeatures:
    """What the model under test gives for images of `size`: the grids of its tapped blocks, and a map of the pixels."""

    size: Size
    taps: tuple[Float[Tensor, "b e h w"], ...]
    pixels: Float[Tensor, "b d H W"] | None

    @property
    def grid(self) -> Float[Tensor, "b e h w"]:
        """The last tapped block."""
        return self.taps[-1]

    @property
    def third(self) -> Float[Tensor, "b e h w"]:
        """The third of four tapped blocks."""
        return self.taps[-2]

    @property
    def widths(self) -> tuple[int, int | None]:
        """Channels of the grid and of the pixel map."""
        return self.grid.shape[1], None if self.pixels is None else self.pixels.shape[1]


@torch.no_grad()
def features_of(model: GridModel, head: str, images: Float[Tensor, "b 3 H W"]) -> FrozenFeatures:
    """What the model gives for these images; sides that are no multiple of the patch are resized to the nearest."""
    fitted = to_whole_patches(images, model.patch_size)
    taps = model.encoder_taps(fitted)
    pixels = model.pixel_map(fitted) if head != ENCODER and isinstance(model, PixelModel) else None
    return FrozenFeatures(size_of(images), taps, pixels)


class NormalsProbe(nn.Module):
    """1×1 on the third tapped block + 5×5 on the pixel map, summed after upsampling; three outputs.

    docs/protocols.md, "NYUv2".
    """

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int = 3) -> None:
        super().__init__()
        self.grid = nn.Conv2d(grid_width, n_outputs, 1)
        self.pixels = None if pixel_width is None else nn.Conv2d(pixel_width, n_outputs, 5, padding=2)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        """Directions x, y, z of any length, at the size of the images."""
        found = to_size(self.grid(features.third), features.size)
        if self.pixels is None or features.pixels is None:
            return found
        return found + to_size(self.pixels(features.pixels), features.size)


class AttentionProbe(nn.Module):
    """1×1 on the grid + learned queries that attend to the rectified pixel map; logits are dot products.

    One query per class, drawn from N(0, 1); 8 heads over the map downsampled ×4; no norms.
    """

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int) -> None:
        super().__init__()
        self.grid = nn.Conv2d(grid_width, n_outputs, 1)
        self.queries: nn.Parameter | None = None
        if pixel_width is not None:
            self.queries = nn.Parameter(torch.randn(n_outputs, pixel_width))
            self.attention = nn.MultiheadAttention(pixel_width, HEADS, batch_first=True)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        """A logit per class, at the size of the images."""
        found = to_size(self.grid(features.grid), features.size)
        if self.queries is None or features.pixels is None:
            return found
        pixels = F.relu(features.pixels)
        small = F.avg_pool2d(pixels, POOLED, ceil_mode=True).flatten(2).mT
        queries = self.queries.expand(len(pixels), -1, -1)
        attended = self.attention(queries, small, small, need_weights=False)[0]
        return found + to_size(torch.einsum("bkd,bdhw->bkhw", attended, pixels), features.size)


class LinearProbe(nn.Module):
    """One 1×1 convolution on the map under test: the pixel map where there is one, else the grid."""

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Conv2d(pixel_width or grid_width, n_outputs, 1)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        """A logit per class, at the size of the images."""
        found = self.linear(features.grid if features.pixels is None else features.pixels)
        return to_size(found, features.size)


class NormedLinearProbe(nn.Module):
    """Batch norm and a 1×1 convolution on the map under test (DINOv3's protocol)."""

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(pixel_width or grid_width)
        self.linear = nn.Conv2d(pixel_width or grid_width, n_outputs, 1)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        """A logit per class, at the size of the images."""
        normed = self.norm(features.grid if features.pixels is None else features.pixels)
        return to_size(self.linear(normed), features.size)


BuildProbe = Callable[[int, int | None, int], nn.Module]


def seeded(build: BuildProbe, widths: tuple[int, int | None], n_outputs: int, seed: int) -> nn.Module:
    """A probe whose first weights are PyTorch's own for that seed, whatever else draws meanwhile."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(*widths, n_outputs)


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
