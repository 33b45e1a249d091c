"""V-JEPA 2 (Assran et al., 2025) frame by frame. Its rotary positions assume square grids; here they have any shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lila_train.evaluation.baselines._video import FrameTransformer, Images, Tokens, pretrained

WEIGHTS = "facebook/vjepa2-vitl-fpc64-256"
LICENSE = "mit"

ROW = 1024  # cells in a row of the grid on which positions are counted: more than any image has


class VJepa2(FrameTransformer):
    """The encoder of a `transformers.VJEPA2Model`."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder = network.encoder
        self.patch_size = int(network.config.patch_size)
        self.norm = self.encoder.layernorm
        for layer in self.encoder.layer:
            layer.attention.grid_size = ROW

    def tokens(self, frames: Images) -> Tokens:
        return self.encoder.embeddings(frames[:, None])  # which repeats the frame to a tubelet

    def blocks(self, grid: tuple[int, int]) -> list[Callable[[Tokens], Any]]:
        rows, columns = (torch.arange(count, device=self.device) for count in grid)
        positions = (rows[:, None] * ROW + columns).flatten()

        def positioned(layer: Any) -> Callable[[Tokens], Any]:
            return lambda tokens: layer(tokens, positions.expand(len(tokens), -1))

        return [positioned(layer) for layer in self.encoder.layer]


def transformer(place: str) -> VJepa2:
    """Load the network from a hub id or a folder."""
    return VJepa2(pretrained("VJEPA2Model", place))
