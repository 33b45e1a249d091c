"""Video transformers frame by frame: an image is shown to them as the frames of one tubelet, all alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks.encoder import taps
from lila_train.evaluation.baselines.upsamplers import WEIGHTS_OPTION, BaselineOptions, normalized
from lila_train.evaluation.models import ENCODER
from stores.errors import LilaError

ROW = 1024  # cells in a row of the grid that V-JEPA 2's positions are counted on: more than any image has

Images = Float[Tensor, "b 3 H W"]
Tokens = Float[Tensor, "b n e"]


@runtime_checkable
class Blocks(Protocol):
    """A transformer taken apart: `first` gives the tokens of normalised frames, `blocks` are run on them in order."""

    patch_size: int
    norm: Callable[[Tokens], Tokens]

    def first(self, frames: Images) -> Tokens:
        """Tokens of frames normalised as ImageNet's networks take them, row by row over the grid of patches."""
        ...

    def blocks(self, grid: tuple[int, int]) -> list[Callable[[Tokens], Any]]:
        """In order, for a grid of rows and columns; each gives the tokens, or a tuple that begins with them."""
        ...


class VJepa2:
    """V-JEPA 2's encoder. Its rotary positions know only square grids, so tokens are told their place on a wide one."""

    network_class = "VJEPA2Model"

    def __init__(self, network: Any) -> None:
        self.encoder = network.encoder
        self.patch_size = int(network.config.patch_size)
        self.norm: Callable[[Tokens], Tokens] = self.encoder.layernorm
        for layer in self.encoder.layer:
            layer.attention.grid_size = ROW

    def first(self, frames: Images) -> Tokens:
        """Tokens without positions; one frame is repeated to a tubelet by the network itself."""
        return self.encoder.embeddings(frames[:, None])

    def blocks(self, grid: tuple[int, int]) -> list[Callable[[Tokens], Any]]:
        """Each is told the places of its tokens on the wide grid."""

        def at_its_places(layer: Any) -> Callable[[Tokens], Any]:
            def run(tokens: Tokens) -> Any:
                rows, columns = (torch.arange(count, device=tokens.device) for count in grid)
                places = (rows[:, None] * ROW + columns).flatten()
                return layer(tokens, places.expand(len(tokens), -1))

            return run

        return [at_its_places(layer) for layer in self.encoder.layer]


class VideoMae:
    """VideoMAE. Of its table of positions the first moment's is taken, brought bicubically to the image's grid."""

    network_class = "VideoMAEModel"

    def __init__(self, network: Any) -> None:
        self.network = network
        self.patch_size = int(network.config.patch_size)
        self.norm: Callable[[Tokens], Tokens] = network.layernorm or nn.Identity()
        embeddings = network.embeddings
        side = int(network.config.image_size) // self.patch_size
        first = embeddings.position_embeddings[0, : side * side]
        self.positions = first.T.unflatten(1, (side, side))[None]
        self.projection = embeddings.patch_embeddings.projection
        self.tubelet = int(network.config.tubelet_size)

    def first(self, frames: Images) -> Tokens:
        """Tokens with their positions."""
        found = self.projection(frames[:, :, None].expand(-1, -1, self.tubelet, -1, -1))[:, :, 0]
        positions = self.positions.to(found)
        if positions.shape[2:] != found.shape[2:]:
            positions = F.interpolate(positions, found.shape[2:], mode="bicubic", align_corners=False)
        return (found + positions).flatten(2).mT

    def blocks(self, grid: tuple[int, int]) -> list[Callable[[Tokens], Any]]:
        """As they are: positions were added to the tokens."""
        return list(self.network.encoder.layer)


@dataclass(frozen=True)
class VideoModel:
    """Frame-wise features of a video transformer; it has a grid alone."""

    parts: Blocks
    device: torch.device
    about: dict[str, Any]

    @property
    def patch_size(self) -> int:
        """In pixels."""
        return self.parts.patch_size

    def encoder_grid(self, images: Images) -> Float[Tensor, "b e h w"]:
        """The last tapped block, through the final norm."""
        return self.encoder_taps(images)[-1]

    @torch.no_grad()
    def encoder_taps(self, images: Images) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Four blocks spread as those of an image encoder, each through the final norm."""
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        tokens = self.parts.first(normalized(images))
        blocks = self.parts.blocks(grid)
        chosen = taps(len(blocks))
        found = {}
        for index, block in enumerate(blocks):
            output = block(tokens)
            tokens = output[0] if isinstance(output, tuple) else output
            if index in chosen:
                found[index] = self.parts.norm(tokens).mT.unflatten(2, grid).contiguous()
        return tuple(found[index] for index in chosen)

    def describe(self) -> dict[str, Any]:
        """Provenance: name, place, licence and hash of the weights."""
        return {"encoder": self.about["baseline"], "patch_size": self.patch_size, "baseline": self.about}


@dataclass(frozen=True)
class VideoBaseline:
    """A network of transformers, from the hub or from a local folder in the hub's form; safetensors alone are read."""

    name: str
    place: str
    licence: str
    parts: type[VJepa2] | type[VideoMae]

    @property
    def heads(self) -> tuple[str, ...]:
        """The grid alone."""
        return (ENCODER,)

    def identity(self, asked: BaselineOptions) -> dict[str, Any]:
        """Name and hub id, or the hashes of the files given."""
        return {"baseline": self.name} | (asked.weights_identity() or {"baseline_weights": self.place})

    def load(self, asked: BaselineOptions, device: torch.device) -> VideoModel:
        """The network; LilaError where an encoder or a clone is given, or the weights cannot be had."""
        import transformers

        if asked.encoder is not None or asked.repository is not None:
            raise LilaError(
                f"--encoder and --baseline-repo say nothing about {self.name}; its weights are of one piece"
            )
        place = str(asked.weights or self.place)
        try:
            network = getattr(transformers, self.parts.network_class).from_pretrained(place, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            raise LilaError(
                f"expected {self.name} as safetensors at {place}, but it cannot be had ({reason}); go online once, or "
                f"pass a folder with config.json and model.safetensors with {WEIGHTS_OPTION}"
            ) from error
        network.requires_grad_(False).eval().to(device)
        about = {"licence": self.licence, "place": str(Path(place).name), **self.identity(asked)}
        return VideoModel(self.parts(network), device, about)
