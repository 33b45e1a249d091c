"""LoftUp (Huang et al., 2025): cross-attention from pixels to the encoder's tokens, with a norm over channels."""

from __future__ import annotations

from importlib import import_module

from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import grid_of, normalized

REPOSITORY = "andrehuang/loftup"
REVISION = "6620d9bcde4c1af5cddedde6b9aaed6d4174a799"
MARKER = "upsamplers/upsamplers.py"
LICENSE = "mit"
ENCODER = "dinov2_vits14"
WEIGHTS = "hf:haiwen/loftup-dinov2s/pytorch_model.bin"


def build(encoder: FrozenEncoder) -> nn.Module:
    """Build the network for the encoder's width."""
    module = import_module("upsamplers.upsamplers")
    upsampler = module.LoftUp(encoder.width, lr_pe_type="sine", lr_size=16)
    return module.UpsamplerwithChannelNorm(upsampler, module.ChannelNorm(encoder.width))


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
    """Return the upsampled grid at the images' size."""
    return network(grid_of(encoder, images), normalized(images))
