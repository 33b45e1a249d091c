"""A frozen encoder on an enlarged input: the costly way to finer features, against which a pixel map is measured.

Enlarged by the patch size there is a token for every pixel; the cost of attention grows with the fourth power.
"""

from __future__ import annotations

import time

from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder


def build(encoder: FrozenEncoder, factor: int | None = None) -> nn.Module:
    """Return the bilinear enlargement by `factor`, the encoder's patch size for None."""
    return nn.Upsample(scale_factor=factor or encoder.patch_size, mode="bilinear", align_corners=False)


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e y x"]:
    """Return the grid of the enlarged images, with `factor`² as many tokens."""
    return encoder.grid(network(images))


def estimate(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> float:
    """Return about how many seconds `call` will take: those of 256 tokens, by the number of products in a block."""

    def products(tokens: float) -> float:
        return tokens * encoder.width * (12 * encoder.width + 2 * tokens)

    seconds = []
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        encoder.grid(images.new_zeros(1, 3, 16 * encoder.patch_size, 16 * encoder.patch_size)).mean().item()
        seconds.append(time.perf_counter() - began)
    tokens = images[0, 0].numel() * (float(vars(network)["scale_factor"]) / encoder.patch_size) ** 2
    return len(images) * min(seconds) * products(tokens) / products(256.0)
