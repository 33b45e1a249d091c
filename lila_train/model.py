"""LILA at work: a frozen encoder and a trained decoder, one image in, one feature vector per pixel out."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.decoder import Decoder
from stores.errors import LilaError

Fit = Literal["pad", "resize"]


class Lila(nn.Module):
    """Pixel features of images of any size.

    `fit` says how a size that is no multiple of the patch is met: `pad` repeats the last row and column and cuts the
    result, `resize` stretches the image to the nearest multiple and decodes at the original size.
    """

    def __init__(self, encoder: FrozenEncoder, decoder: Decoder, fit: Fit = "pad") -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.fit = fit

    def forward(self, images: Shaped[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """Features for RGB images, uint8 or floats in [0, 1]: `b×d×H×W`, zero mean and unit variance over d."""
        height, width = images.shape[-2:]
        fitted = self._fitted(as_float(images))
        tokens = self.encoder(fitted)
        if self.fit == "resize":
            return self.decoder(tokens, (height, width))
        return self.decoder(tokens, (fitted.shape[-2], fitted.shape[-1]))[..., :height, :width]

    def encode(self, images: Shaped[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """The encoder's own grid: tokens of its last block, after the final LayerNorm."""
        return self.encoder.grid(self._fitted(as_float(images)))

    def _fitted(self, images: Tensor) -> Tensor:
        patch = self.encoder.patch_size
        height, width = images.shape[-2:]
        if self.fit == "resize":
            size = [max(1, round(side / patch)) * patch for side in (height, width)]
            return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return F.pad(images, (0, -width % patch, 0, -height % patch), mode="replicate")


def as_float(images: Tensor) -> Tensor:
    """RGB as floats in [0, 1]; refuses what is no image."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise LilaError(f"expected RGB images of shape b×3×H×W, found {'×'.join(map(str, images.shape))}")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise LilaError(f"expected uint8 or floating-point images, found {images.dtype}")
    return images
