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

from lila_train.model.convolution import Conv3x3, is_plain_inference
from lila_train.model.resize import Resize, Size, align_corners, size_of
from stores.errors import LilaError

STRIP_PIXELS = 64 * 448  # of the full-resolution map that are computed at once

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
        self.reduce = nn.ModuleList(Conv3x3(level, widths.inner, bias=False) for level in o)
        self.fuse = nn.ModuleList(Fusion(widths.inner, has_skip=level < 3) for level in range(4))
        self.head = Conv3x3(widths.inner, widths.out)
        self.pixel = nn.Sequential(
            Conv3x3(widths.out, widths.out), nn.ReLU(inplace=True), nn.Conv2d(widths.out, widths.out, 1)
        )
        self.norm = nn.LayerNorm(widths.out, eps=1e-5)
        self.norm.requires_grad_(False)  # the reference never optimizes it (weight 1, bias 0)
        self.to(memory_format=torch.channels_last)  # in which convolutions are faster

    def forward(self, tokens: Sequence[Float[Tensor, "b e h w"]], size: Size) -> Float[Tensor, "b d H W"]:
        """Return features at `size` = (H, W), normalized over channels at each pixel."""
        return self.tail(self.coarse(tokens), size)

    def tail(
        self, coarse: Float[Tensor, "b d h w"], size: Size, resize: Resize = align_corners
    ) -> Float[Tensor, "b d H W"]:
        """Return features of a coarse map at `size`: it is resized, two convolutions, normalized at each pixel.

        On a CPU, where no gradient is needed, that goes by strips of rows: exact, with less memory, but one pass is
        simpler to differentiate.
        """
        height, width = size
        if not is_plain_inference(coarse, *self.pixel.parameters()) or coarse.dtype != self.norm.weight.dtype:
            return self._normalized(self.pixel(resize(coarse, size, 0, height)).movedim(1, -1)).movedim(-1, 1)
        features = coarse.new_empty(*coarse.shape[:2], height, width)
        rows = 4 * max(1, STRIP_PIXELS // (4 * width)) + 2
        for begin in range(0, height, rows):
            above, end = min(begin, 1), min(begin + rows, height)
            strip = resize(coarse, size, begin - above, min(end + 1, height))
            hidden = self.pixel(strip.contiguous(memory_format=torch.channels_last))
            part = hidden[:, :, above : above + end - begin].movedim(1, -1)
            features[:, :, begin:end] = self._normalized(part).movedim(-1, 1)
        return features

    def pyramid(self, tokens: Sequence[Float[Tensor, "b e h w"]]) -> list[Float[Tensor, "b f _ _"]]:
        """Return the fused maps of the four levels, of a quarter, half, one and two patches per cell, finest first."""
        maps: list[Tensor] = []
        for level in (3, 2, 1, 0):
            skip = self.reduce[level](self.rescale[level](self.project[level](tokens[level])))
            x = self.fuse[level](align_corners(maps[0], size_of(skip)), skip) if maps else self.fuse[3](skip)
            maps.insert(0, x)
        return maps

    def coarse(self, tokens: Sequence[Float[Tensor, "b e h w"]]) -> Float[Tensor, "b d _ _"]:
        """Return the map at eight times the token grid, which `forward` resizes and `at` samples."""
        finest = self.pyramid(tokens)[0]
        return self.head(align_corners(finest, (2 * finest.shape[-2], 2 * finest.shape[-1])))

    def at(
        self, coarse: Float[Tensor, "b d h w"], size: Size, points: Float[Tensor, "b n 2"]
    ) -> Float[Tensor, "b n d"]:
        """Return the features of `forward` at points (x, y) of an image of `size`; pixel centers are whole numbers.

        Only the points and their eight neighbors are computed. Between pixels the neighbors are those one pixel away.
        """
        last = torch.tensor([size[1] - 1, size[0] - 1], device=points.device, dtype=points.dtype)
        y, x = torch.meshgrid(*[torch.arange(-1, 2, device=points.device)] * 2, indexing="ij")
        neighbors = points[:, :, None] + torch.stack([x, y], dim=-1).flatten(0, 1)
        inside = ((neighbors >= 0) & (neighbors <= last)).all(-1)
        places = (2 * neighbors / last.clamp(min=1) - 1).to(coarse.dtype)
        values = F.grid_sample(coarse, places, padding_mode="border", align_corners=True) * inside[:, None]
        hidden, out = self.pixel[0], self.pixel[2]
        x = torch.einsum("bdnk,odk->bno", values, hidden.weight.flatten(2)) + hidden.bias  # type: ignore[operator]
        return self._normalized(F.linear(F.relu(x), out.weight.flatten(1), out.bias))  # type: ignore[operator,arg-type]

    def _normalized(self, x: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """Normalize over the last axis in float32, whatever autocast does."""
        norm = self.norm
        with torch.autocast(x.device.type, enabled=False):
            x = F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
        return x.to(norm.weight.dtype)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3×3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(width, width)
        self.conv2 = Conv3x3(width, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.conv2(F.relu(self.conv1(F.relu(x)), inplace=True)).add_(x)


class Fusion(nn.Module):
    """Adds a level's map to the coarser path, both b×c×h×w.

    Its 1×1 convolution comes before the resize that follows, with which it commutes, at a quarter of the cost. The
    coarsest block has no skip, and is built without a unit for it, so that every weight has a gradient.
    """

    def __init__(self, width: int, *, has_skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualUnit(width) if has_skip else None
        self.unit = ResidualUnit(width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.skip_unit is not None and skip is not None:
            x = self.skip_unit(skip).add_(x)
        return self.out(self.unit(x))
