"""FeatUp's stack of joint bilateral upsamplers, without its compiled extension."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines.upsamplers import imported, normalized

EXTENSIONS = ("adaptive_conv_cuda_impl", "adaptive_conv_cpp_impl")


class FeatUp(nn.Module):
    """A norm over channels, then four times ×2 along the image's edges."""

    def __init__(self, norm: nn.Module, upsampler: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.upsampler = upsampler

    def forward(self, grid: Float[Tensor, "b c h w"], guide: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c y x"]:
        """The grid upsampled ×16 with the image, normalised as ImageNet's networks take it, as guide."""
        return self.upsampler(self.norm(grid), guide)


def build(root: Path, encoder: FrozenEncoder) -> FeatUp:
    """The network of a clone, for the encoder's width; its four upsamplers bring a grid to 16 times its sides."""
    with (
        _extension_in_pytorch(),
        imported(root, "featup.upsamplers") as upsamplers,
        imported(root, "featup.layers") as layers,
    ):
        return FeatUp(layers.ChannelNorm(encoder.width), upsamplers.get_upsampler("jbu_stack", encoder.width))


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c y x"]:
    """Sixteen cells for each of the encoder's, along both sides."""
    return network(encoder.grid(images), normalized(images))


def adaptive_convolution(
    padded: Float[Tensor, "b c Y X"], filters: Float[Tensor, "b y x k k"]
) -> Float[Tensor, "b c y x"]:
    """A convolution with a filter of its own at every place, what FeatUp's extension computes."""
    height, width, side = filters.shape[1:4]
    found = padded.new_zeros(len(padded), padded.shape[1], height, width)
    for dy in range(side):
        for dx in range(side):
            found.addcmul_(padded[:, :, dy : dy + height, dx : dx + width], filters[:, None, :, :, dy, dx])
    return found


@contextmanager
def _extension_in_pytorch() -> Iterator[None]:
    """Stand-ins for the extension's two halves while the code is imported, which keeps hold of them."""
    kept = {name: sys.modules.get(name) for name in EXTENSIONS}
    state = torch.get_rng_state()  # the code seeds PyTorch when it is imported
    for name in EXTENSIONS:
        module = ModuleType(name)
        module.forward = adaptive_convolution  # type: ignore[attr-defined]
        sys.modules[name] = module
    try:
        yield
    finally:
        torch.set_rng_state(state)
        for name, module_before in kept.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
