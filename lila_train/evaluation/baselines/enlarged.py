"""A frozen encoder on an enlarged input: the costly way to finer features, by which a pixel map is to be measured.

Enlarged by the patch size there is a token for every pixel; the cost of attention grows with the fourth power.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_cues.networks import load_encoder
from lila_train.evaluation.baselines.asked import Asked
from lila_train.evaluation.models import ENCODER, EncoderAlone, OnEncoder, encoder_identity
from lila_train.sizes import size_of, to_size
from stores.errors import LilaError


@dataclass(frozen=True)
class EnlargedModel(OnEncoder):
    """The grid of the image as it is, and as pixel map the grid of the image enlarged bilinearly."""

    factor: int
    head: str

    @torch.no_grad()
    def pixel_map(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e H W"]:
        """The grid of the enlarged image, `factor`² as many tokens, at the image's size."""
        larger = F.interpolate(images, scale_factor=self.factor, mode="bilinear", align_corners=False)
        return to_size(self.below.encoder_grid(larger), size_of(images))

    def describe(self) -> dict[str, Any]:
        """Provenance of the encoder, and the factor."""
        return self.below.describe() | {"enlarged": self.factor}


@dataclass(frozen=True)
class Enlarged:
    """`factor` None: the encoder's patch size."""

    name: str
    factor: int | None

    @property
    def heads(self) -> tuple[str, ...]:
        """The grid as it is, and the enlarged one by the name of this row."""
        return (ENCODER, self.name)

    def identity(self, asked: Asked) -> dict[str, Any]:
        """The baseline's name, which gives the factor, and the encoder."""
        return {"baseline": self.name} | encoder_identity(_encoder(asked, self.name), asked.encoder_weights)

    def load(self, asked: Asked, device: torch.device) -> EnlargedModel:
        """The encoder asked for; LilaError where none is, since any will do."""
        encoder = load_encoder(_encoder(asked, self.name), asked.encoder_weights, device)
        return EnlargedModel(EncoderAlone(encoder, device), self.factor or encoder.patch_size, self.name)


def _encoder(asked: Asked, name: str) -> str:
    if asked.encoder is None:
        raise LilaError(f"expected an encoder for --baseline {name}, found none; name one with --encoder")
    return asked.encoder
