"""A frozen encoder on an enlarged input: the costly way to finer features, against which a pixel map is measured.

Enlarged by the patch size there is a token for every pixel; the cost of attention grows with the fourth power.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder


def build(encoder: FrozenEncoder, factor: int | None = None) -> nn.Module:
    """Return the bilinear enlargement by `factor`, the encoder's patch size for None."""
    return nn.Upsample(scale_factor=factor or encoder.patch_size, mode="bilinear", align_corners=False)


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e y x"]:
    """Return the grid of the enlarged images, with `factor`² as many tokens."""
    return encoder.grid(network(images))
