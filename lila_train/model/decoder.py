"""The DPT decoder: four maps of patch tokens in, one feature vector per pixel out (docs/method.md, "Network").

Ranftl et al., "Vision Transformers for Dense Prediction" (ICCV 2021), without batch norm, as used by LILA (section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.model.resize import Size, align_corners, size_of
from stores.errors import LilaError

_PUBLISHED: dict[int, tuple[tuple[int, int, int, int], int]] = {  # encoder width: levels, inner width
    384: ((48, 96, 192, 384), 256),
    768: ((96, 192, 384, 768), 384),
    1024: ((256, 512, 1024, 1024), 512),
    1536: ((1536, 1536, 1536, 1536), 768),
}


@dataclass(frozen=True)
class DecoderWidths:
    """Channels along the decoder: of the tokens, the four levels, the fusion blocks, and a pixel's feature vector."""

    encoder: int
    levels: tuple[int, int, int, int]
    inner: int
    out: int

    @classmethod
    def of_encoder(cls, width: int, inner: int | None = None) -> DecoderWidths:
        """Return the widths for an encoder of `width` channels.

        ViT-S, B, L and g have the published ones; others follow ViT-S and B: levels of E/8, E/4, E/2 and E channels.
        `inner` overrides the fusion width; a pixel's feature vector always has half of it.
        """
        if width % 8:
            raise LilaError(f"expected an encoder whose width is a multiple of 8, found one of {width} channels")
        default = ((width // 8, width // 4, width // 2, width), max(64, width // 2))
        levels, published_inner = _PUBLISHED.get(width, default)
        inner = inner or published_inner
        if inner % 2 or inner < 4:
            raise LilaError(
                f"expected an even number from 4 on as decoder width, found {inner}; pass another --set decoder_width"
            )
        return cls(width, levels, inner, inner // 2)


class Decoder(nn.Module):
    """Maps tokens of four blocks, each b×E×h×w, to features b×d×H×W of zero mean and unit variance over channels."""

    def __init__(self, widths: DecoderWidths) -> None:
        super().__init__()
        self.widths = widths
        o = widths.levels
        self.project = nn.ModuleList(nn.Conv2d(widths.encoder, level, 1) for level in o)
        self.rescale = nn.ModuleList(
            (
                nn.ConvTranspose2d(o[0], o[0], 4, stride=4),
                nn.ConvTranspose2d(o[1], o[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(o[3], o[3], 3, stride=2, padding=1),
            )
        )
        self.reduce = nn.ModuleList(nn.Conv2d(level, widths.inner, 3, padding=1, bias=False) for level in o)
        self.fuse = nn.ModuleList(Fusion(widths.inner, has_skip=level < 3) for level in range(4))
        self.head = nn.Conv2d(widths.inner, widths.out, 3, padding=1)
        self.pixel = nn.Sequential(
            nn.Conv2d(widths.out, widths.out, 3, padding=1), nn.ReLU(), nn.Conv2d(widths.out, widths.out, 1)
        )
        self.norm = nn.LayerNorm(widths.out, eps=1e-5)
        self.norm.requires_grad_(False)  # the reference never optimizes it (weight 1, bias 0)

    def forward(self, tokens: Sequence[Float[Tensor, "b e h w"]], size: Size) -> Float[Tensor, "b d H W"]:
        """Return features at `size` = (H, W), normalized over channels at each pixel."""
        levels = [
            reduce(rescale(project(t)))
            for t, project, rescale, reduce in zip(tokens, self.project, self.rescale, self.reduce, strict=True)
        ]
        x = self.fuse[3](levels[3], None, size_of(levels[2]))
        x = self.fuse[2](x, levels[2], size_of(levels[1]))
        x = self.fuse[1](x, levels[1], size_of(levels[0]))
        x = self.fuse[0](x, levels[0], (2 * levels[0].shape[-2], 2 * levels[0].shape[-1]))
        x = self.pixel(align_corners(self.head(x), size))
        with torch.autocast(x.device.type, enabled=False):  # normalized in float32, whatever autocast does
            norm, channels_last = self.norm, x.float().movedim(1, -1)
            x = F.layer_norm(channels_last, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
        return x.movedim(-1, 1).to(norm.weight.dtype)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3×3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Adds a finer level to the coarser path b×c×h×w and resizes the sum to the size of the next level.

    The coarsest block has no skip, and is built without a unit for it, so that every weight has a gradient.
    """

    def __init__(self, width: int, *, has_skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualUnit(width) if has_skip else None
        self.unit = ResidualUnit(width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: Size) -> Tensor:
        if self.skip_unit is not None and skip is not None:
            x = x + self.skip_unit(skip)
        return self.out(align_corners(self.unit(x), size))
