"""UPLiFT (Walmer et al., 2026): four steps that double the grid, each pooling the features of a neighborhood."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import grid_of, normalized

REPOSITORY = "mwalmer-umd/UPLiFT"
REVISION = "85f09ee4512aacdb7ff194b5137fb65049e0dbe9"
MARKER = "uplift/uplift.py"
LICENSE = "mit"
ENCODER = "dinov2_vits14"
WEIGHTS = "hf:UPLiFT-upsampler/uplift_dinov2-s14/uplift_dinov2-s14.safetensors"

STEPS = 4  # 16 times the grid, as the authors' command for features per pixel


def build(encoder: FrozenEncoder) -> nn.Module:
    """Build the network of the configuration for DINOv2-S/14, for the encoder's width and patch size."""
    module = import_module("uplift.uplift")
    path = Path(str(module.__file__)).parent / "configs/uplift_dinov2-s14.yaml"
    config = import_module("omegaconf").OmegaConf.load(path).uplift
    network = module.UPLiFT(encoder.width, encoder.patch_size, config, low_mem=True)  # as the authors', for four steps
    network.enable_iterative(STEPS)
    return network


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c y x"]:
    """Return the grid upsampled 16 times along both sides."""
    return network(normalized(images), grid_of(encoder, images))
