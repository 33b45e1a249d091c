"""VideoMAE (Tong et al., NeurIPS 2022) frame by frame, with the positions of its first tubelet resized bicubically."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn

from lila_train.evaluation.baselines._video import FrameTransformer, Images, Tokens, pretrained

WEIGHTS = "MCG-NJU/videomae-base"
LICENSE = "cc-by-nc-4.0"


class VideoMae(FrameTransformer):
    """A `transformers.VideoMAEModel`."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.patch_size = int(network.config.patch_size)
        self.tubelet = int(network.config.tubelet_size)
        self.norm = network.layernorm or nn.Identity()
        side = int(network.config.image_size) // self.patch_size
        first = network.embeddings.position_embeddings[0, : side * side].detach()
        self.positions = first.T.unflatten(1, (side, side))[None]

    def tokens(self, frames: Images) -> Tokens:
        projection = self.network.embeddings.patch_embeddings.projection
        tokens = projection(frames[:, :, None].expand(-1, -1, self.tubelet, -1, -1))[:, :, 0]
        positions = self.positions.to(tokens)
        if positions.shape[2:] != tokens.shape[2:]:
            positions = F.interpolate(positions, tokens.shape[2:], mode="bicubic", align_corners=False)
        return (tokens + positions).flatten(2).mT

    def blocks(self, grid: tuple[int, int]) -> list[Callable[[Tokens], Any]]:
        return list(self.network.encoder.layer)


def transformer(place: str) -> VideoMae:
    """Load the network from a hub id or a folder."""
    return VideoMae(pretrained("VideoMAEModel", place))
