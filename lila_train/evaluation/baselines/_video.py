"""Models that are encoders themselves; the video transformers encode an image as the equal frames of one tubelet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks.encoder import taps
from lila_train.evaluation.baselines import WEIGHTS_OPTION, normalized
from lila_train.evaluation.models import from_transformers

Images = Float[Tensor, "b 3 H W"]
Tokens = Float[Tensor, "b n e"]


class OwnEncoder(nn.Module, ABC):
    """A model under test with a grid, and no map of the pixels."""

    patch_size: int
    about: Mapping[str, Any]

    def __init__(self, network: Any = None) -> None:
        super().__init__()
        if network is not None:
            self.network, self.patch_size = network, int(network.patch_size)

    @abstractmethod
    def encoder_taps(self, images: Images) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Return the grids of four blocks, the last of which is `encoder_grid`."""

    @torch.no_grad()
    def encoder_grid(self, images: Images) -> Float[Tensor, "b e h w"]:
        return self.encoder_taps(images)[-1]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def describe(self) -> dict[str, Any]:
        return {"encoder": self.about["name"], "patch_size": self.patch_size, "baseline": self.about}


class FrameTransformer(OwnEncoder):
    """A transformer in parts, run block by block."""

    norm: nn.Module

    @abstractmethod
    def tokens(self, frames: Images) -> Tokens:
        """Return the tokens of normalized frames, row by row over the grid of patches."""

    @abstractmethod
    def blocks(self, grid: tuple[int, int]) -> list[Callable[[Tokens], Any]]:
        """Return the blocks for a grid of rows and columns; each gives the tokens, or a tuple that begins with them."""

    @torch.no_grad()
    def encoder_taps(self, images: Images) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Return four blocks, spread like those of an image encoder, each through the final norm."""
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        tokens = self.tokens(normalized(images))
        blocks = self.blocks(grid)
        tapped = {}
        for index, block in enumerate(blocks):
            output = block(tokens)
            tokens = output[0] if isinstance(output, tuple) else output
            if index in taps(len(blocks)):
                tapped[index] = self.norm(tokens).mT.unflatten(2, grid).contiguous()
        return tuple(tapped[index] for index in taps(len(blocks)))


def pretrained(kind: str, place: str) -> Any:
    """Load a network of `transformers` from the hub or from a folder in the hub's form; only safetensors are read."""
    hint = f"a folder with config.json and model.safetensors with {WEIGHTS_OPTION}"
    return from_transformers(kind, place, f"a {kind} as safetensors", hint, use_safetensors=True)
