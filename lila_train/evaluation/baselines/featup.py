"""FeatUp (Fu et al., ICLR 2024): a stack of joint bilateral upsamplers, without its compiled extension."""

from __future__ import annotations

from importlib import import_module

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import grid_of, normalized, replaced_modules

REPOSITORY = "mhamilton723/FeatUp"
REVISION = "6b5a6c0e91f75e69194807128dcbc39c3084a30d"
MARKER = "featup/upsamplers.py"
LICENSE = "mit"
ENCODER = "dinov2_vits14"
WEIGHTS = (
    "https://marhamilresearch4.blob.core.windows.net/feature-upsampling-public/pretrained/"
    "dinov2_jbu_stack_cocostuff.ckpt"
)
PREFIXES = {"state_dict.upsampler.": "upsampler.", "state_dict.model.1.": "norm."}


def build(encoder: FrozenEncoder) -> nn.ModuleDict:
    """Build a norm over channels and four upsamplers by 2 that follow the image's edges."""
    extension = replaced_modules("adaptive_conv_cuda_impl", "adaptive_conv_cpp_impl", forward=adaptive_convolution)
    with torch.random.fork_rng(devices=[]), extension:  # FeatUp seeds PyTorch when it is imported
        upsamplers, layers = import_module("featup.upsamplers"), import_module("featup.layers")
        norm = layers.ChannelNorm(encoder.width)
        return nn.ModuleDict({"norm": norm, "upsampler": upsamplers.get_upsampler("jbu_stack", encoder.width)})


def call(network: nn.ModuleDict, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c y x"]:
    """Return the grid upsampled 16 times along both sides."""
    return network["upsampler"](network["norm"](grid_of(encoder, images)), normalized(images))


def adaptive_convolution(
    padded: Float[Tensor, "b c Y X"], filters: Float[Tensor, "b y x k k"]
) -> Float[Tensor, "b c y x"]:
    """Return a convolution with another filter at every position, as FeatUp's extension computes it."""
    height, width, side = filters.shape[1:4]
    result = padded.new_zeros(len(padded), padded.shape[1], height, width)
    for dy in range(side):
        for dx in range(side):
            result.addcmul_(padded[:, :, dy : dy + height, dx : dx + width], filters[:, None, :, :, dy, dx])
    return result
