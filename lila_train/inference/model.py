"""LILA at work: a frozen encoder and a trained decoder, one image in, one feature vector per pixel out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_cues.networks.weights import tensors_sha256
from lila_train.checkpoint import Provenance
from lila_train.decoder import Decoder
from lila_train.inference.hub import HubMixin
from lila_train.inference.images import AnyImage, as_batch, as_float
from lila_train.inference.tiling import Region, Tiling, slabs
from lila_train.sizes import size_of, whole_patches
from stores.errors import LilaError

Fit = Literal["pad", "resize"]

WHOLE_PIXELS = 4_194_304
"""The largest image that is computed in one piece unasked: 2048², whose tokens attend to each other all at once."""


class Lila(nn.Module, HubMixin):
    """Pixel features of images of any size.

    `fit` says how a size that is no multiple of the patch is met: `pad` repeats the last row and column and cuts the
    result, `resize` stretches the image to the nearest multiple and decodes at the original size. `provenance` is what
    is known of the run that made the decoder; None where nothing is.
    """

    provenance: Provenance | None = None

    def __init__(self, encoder: FrozenEncoder, decoder: Decoder, fit: Fit = "pad") -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.fit = fit

    @property
    def device(self) -> torch.device:
        """Where its weights are, and where it computes."""
        return next(self.parameters()).device

    @property
    def identity(self) -> str:
        """Tells one model from another: a hash of the decoder's values, the encoder's name and its file's hash."""
        encoder = self.encoder.source
        return f"{tensors_sha256(self.decoder.state_dict())[:16]}-{encoder.network}-{(encoder.sha256 or '')[:16]}"

    def forward(self, images: Shaped[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """Features for RGB images, uint8 or floats in [0, 1]: `b×d×H×W`, zero mean and unit variance over d."""
        height, width = size_of(images)
        fitted = self._fitted(self._as_float(images))
        tokens = self.encoder(fitted)
        if self.fit == "resize":
            return self.decoder(tokens, (height, width))
        return self.decoder(tokens, size_of(fitted))[..., :height, :width]

    def encode(self, images: Shaped[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """The encoder's own grid: tokens of its last block, after the final LayerNorm."""
        return self.encoder.grid(self._fitted(self._as_float(images)))

    @torch.inference_mode()
    def features(self, image: AnyImage, *, tile: int | None = None, overlap: int | None = None, out: Any = None) -> Any:
        """Features d×H×W of one image: a PIL image, an array H×W×3 or a tensor 3×H×W.

        A tensor gives a tensor on the model's device, anything else a float32 array. `tile` computes the image in tiles
        of so many pixels that overlap by `overlap` (a quarter of them) and are blended; tiles do not see what lies
        beyond them, so that values differ a little from those of the whole image. `out` is filled instead of a new
        array: any d×H×W array that slices can be assigned to, such as a memory map or a Zarr array.
        """
        batch = as_batch(image)
        found = self._parts(batch, tile, overlap)
        if out is None and tile is None:
            ((_, whole),) = found
            return whole if isinstance(image, Tensor) else whole.float().cpu().numpy()
        height, width = batch.shape[-2:]
        shape = (self.decoder.widths.out, height, width)
        if out is None:
            out = torch.empty(shape, device=self.device) if isinstance(image, Tensor) else np.empty(shape, np.float32)
        elif tuple(out.shape) != shape:
            raise LilaError(f"expected an array of shape {shape} to fill, found {tuple(out.shape)}")
        for (rows, columns), part in found:
            out[:, rows, columns] = part if isinstance(out, Tensor) else part.float().cpu().numpy()
        return out

    def _parts(
        self, batch: Shaped[Tensor, "1 3 H W"], tile: int | None, overlap: int | None
    ) -> Iterator[tuple[Region, Float[Tensor, "d h w"]]]:
        """The result with where it belongs: all at once, or slab by slab."""
        height, width = batch.shape[-2:]
        if tile is None:
            if height * width > WHOLE_PIXELS:
                raise LilaError(
                    f"expected an image of at most {WHOLE_PIXELS / 1e6:.1f} million pixels to compute in one piece, "
                    f"found {height}×{width}; pass tile=, of {64 * self.encoder.patch_size} px for example"
                )
            return iter([((slice(None), slice(None)), self(batch.to(self.device))[0])])
        tiling = Tiling.of(tile, overlap, self.encoder.patch_size)
        return slabs(batch, lambda part: self(part.to(self.device)), tiling)

    def _as_float(self, images: Tensor) -> Tensor:
        return as_float(images).to(self.encoder.mean.dtype)

    def _fitted(self, images: Tensor) -> Tensor:
        patch = self.encoder.patch_size
        height, width = images.shape[-2:]
        if self.fit == "resize":
            size = whole_patches((height, width), patch)
            return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return F.pad(images, (0, -width % patch, 0, -height % patch), mode="replicate")
