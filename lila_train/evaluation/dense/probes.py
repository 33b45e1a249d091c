"""Probes on frozen features: what is trained on top, per protocol. Outputs have the size of the image.

A probe reads the encoder's grids, and for a head with a pixel map that map too (`None` where there is none).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import weights
from lila_train.evaluation.models import ENCODER, GridModel, feature_map
from lila_train.model.prepared import require_finite
from lila_train.model.resize import Size, size_of, to_size, to_whole_patches

BuildProbe = Callable[[int, int | None, int], nn.Module]  # channels of grid and pixel map, number of outputs

_SEEDING = Lock()  # PyTorch draws initial weights from one generator per process


@dataclass(frozen=True)
class FrozenFeatures:
    """The model's features for images of `size`: the grids of its four tapped blocks, and the pixel map."""

    size: Size
    taps: tuple[Float[Tensor, "b e h w"], ...]
    pixels: Float[Tensor, "b d H W"] | None

    @property
    def grid(self) -> Float[Tensor, "b e h w"]:
        return self.taps[-1]

    @property
    def widths(self) -> tuple[int, int | None]:
        """Channels of the grid and of the pixel map."""
        return self.grid.shape[1], None if self.pixels is None else self.pixels.shape[1]


@torch.no_grad()
def features_of(model: GridModel, head: str, images: Float[Tensor, "b 3 H W"]) -> FrozenFeatures:
    """Return the model's features, LilaError if one is not finite; images are resized to the nearest whole patches."""
    fitted = to_whole_patches(images, model.patch_size)
    taps = tuple(require_finite(grid, head) for grid in model.encoder_taps(fitted))
    return FrozenFeatures(size_of(images), taps, None if head == ENCODER else feature_map(model, head)(fitted))


def seeded(build: BuildProbe, widths: tuple[int, int | None], n_outputs: int, seed: int) -> nn.Module:
    """Return a probe whose initial weights depend on the seed alone; other random draws are not affected."""
    with _SEEDING, weights.seeded(seed):
        return build(*widths, n_outputs)


class LinearProbe(nn.Module):
    """One 1×1 convolution on the map under test: the pixel map where there is one, else the grid."""

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        self.linear = nn.Conv2d(pixel_width or grid_width, n_outputs, 1)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        normed = self.norm(features.grid if features.pixels is None else features.pixels)
        return to_size(self.linear(normed), features.size)


class NormedLinearProbe(LinearProbe):
    """Batch norm and a 1×1 convolution on the map under test (DINOv3's protocol)."""

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int) -> None:
        super().__init__(grid_width, pixel_width, n_outputs)
        self.norm = nn.BatchNorm2d(pixel_width or grid_width)


class NormalsProbe(nn.Module):
    """1×1 on the third tapped block + 5×5 on the pixel map, summed after upsampling (docs/protocols.md, "NYUv2").

    The three outputs are directions x, y, z of any length.
    """

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int = 3) -> None:
        super().__init__()
        self.grid = nn.Conv2d(grid_width, n_outputs, 1)
        self.pixels = None if pixel_width is None else nn.Conv2d(pixel_width, n_outputs, 5, padding=2)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        outputs = to_size(self.grid(features.taps[-2]), features.size)
        if self.pixels is None or features.pixels is None:
            return outputs
        return outputs + to_size(self.pixels(features.pixels), features.size)


class AttentionProbe(nn.Module):
    """1×1 on the grid + learned queries that attend to the rectified pixel map; logits are dot products.

    One query per class, drawn from N(0, 1); 8 heads over the map at a quarter of its size; projections of queries, keys
    and values have no bias; no norms.
    """

    heads = 8

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int) -> None:
        super().__init__()
        self.grid = nn.Conv2d(grid_width, n_outputs, 1)
        self.queries: nn.Parameter | None = None
        if pixel_width is not None:
            self.queries = nn.Parameter(torch.randn(n_outputs, pixel_width))
            self.to_q, self.to_k, self.to_v = (nn.Linear(pixel_width, pixel_width, bias=False) for _ in range(3))
            self.out = nn.Linear(pixel_width, pixel_width)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        logits = to_size(self.grid(features.grid), features.size)
        if self.queries is None or features.pixels is None:
            return logits
        pixels = F.relu(features.pixels)
        quarter = (max(1, pixels.shape[2] // 4), max(1, pixels.shape[3] // 4))
        cells = to_size(pixels, quarter).flatten(2).mT
        queries = self.to_q(self.queries).expand(len(pixels), -1, -1)
        projected = queries, self.to_k(cells), self.to_v(cells)
        by_head = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in projected)
        attended = self.out(F.scaled_dot_product_attention(*by_head).transpose(1, 2).flatten(2))
        return logits + to_size(torch.einsum("bkd,bdhw->bkhw", attended, pixels), features.size)


class DptProbe(nn.Module):
    """Probe3D's DPT head (El Banani et al., 2024); a pixel map, where there is one, adds a 1×1 convolution.

    The grid of each tapped block goes through a 1×1 convolution and is doubled; from the deepest on, the sum so far
    plus the next grid's residual unit goes through another unit; ×4, two 3×3 convolutions, then to the image's size.
    All upsampling is bilinear with aligned corners.
    """

    def __init__(self, grid_width: int, pixel_width: int | None, n_outputs: int, width: int = 512) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(grid_width, width, 1) for _ in range(4))
        self.skip = nn.ModuleList(ResidualUnit(width) for _ in range(3))
        self.fuse = nn.ModuleList(ResidualUnit(width) for _ in range(4))
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, n_outputs, 3, padding=1)
        )
        self.pixels = None if pixel_width is None else nn.Conv2d(pixel_width, n_outputs, 1)

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b k H W"]:
        levels = [_upsample(reduce(tap), factor=2) for reduce, tap in zip(self.reduce, features.taps, strict=True)]
        fused = self.fuse[3](levels[3])
        for level in (2, 1, 0):
            fused = self.fuse[level](self.skip[level](levels[level]) + fused)
        outputs = _upsample(self.head(_upsample(fused, factor=4)), size=features.size)
        if self.pixels is None or features.pixels is None:
            return outputs
        return outputs + _upsample(self.pixels(features.pixels), size=features.size)


class ResidualUnit(nn.Module):
    """x + relu(conv(relu(conv(x)))), 3×3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + F.relu(self.second(F.relu(self.first(x))))


def _upsample(maps: Float[Tensor, "b c h w"], size: Size | None = None, factor: int | None = None) -> Tensor:
    return F.interpolate(maps, size, factor, mode="bilinear", align_corners=True)
