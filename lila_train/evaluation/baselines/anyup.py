"""AnyUp (Wimmer et al., 2025): attention from pixels to the encoder's tokens, for any encoder."""

from __future__ import annotations

from importlib import import_module

from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import grid_of, normalized

REPOSITORY = "wimmerth/anyup"
REVISION = "351807a9c4287368732cc247f26c7c81c9139af4"
MARKER = "anyup/model.py"
LICENSE = "cc-by-4.0"
ENCODER = "dinov2_vits14"
WEIGHTS = "https://github.com/wimmerth/anyup/releases/download/checkpoint/anyup_paper.pth"

QUERIES_PER_CHUNK = 16384  # bounds the memory of the attention


def build(encoder: FrozenEncoder) -> nn.Module:
    """Build the network; it fits any encoder."""
    return import_module("anyup.model").AnyUp()


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
    """Return the upsampled grid at the images' size."""
    return network(normalized(images), grid_of(encoder, images), q_chunk_size=QUERIES_PER_CHUNK)
