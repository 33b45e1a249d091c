"""JAFAR (Couairon et al., 2025): cross-attention from pixels to the encoder's tokens."""

from __future__ import annotations

from functools import partial
from importlib import import_module

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import grid_of, normalized

REPOSITORY = "PaulCouairon/JAFAR"
REVISION = "94d4d5456ff3c719d111b9a26ead3813e089302b"
MARKER = "src/upsampler/jafar.py"
LICENSE = "apache-2.0"
ENCODER = "dinov2_vits14"
WEIGHTS = "https://github.com/PaulCouairon/JAFAR/releases/download/Weights/vit_small_patch14_dinov2.lvd142m.pth"
PREFIXES = {"jafar.": ""}


def build(encoder: FrozenEncoder) -> nn.Module:
    """Build the network for the encoder's width."""
    module = import_module("src.upsampler.jafar")
    # By default it makes coordinates on CUDA; without a device they follow `torch.device` in `call`.
    vars(module)["create_coordinate"] = partial(vars(module)["create_coordinate"], device=None)
    return module.JAFAR(input_dim=3, qk_dim=128, v_dim=encoder.width, kernel_size=1, num_heads=4)


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
    """Return the upsampled grid at the images' size."""
    with torch.device(images.device):
        return network(normalized(images), grid_of(encoder, images), tuple(images.shape[2:]))
