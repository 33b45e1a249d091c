"""Models under test behind one interface: images in, the encoder's grid and, where there is one, a map of the pixels.

A *head* names what is scored: `encoder` is the grid alone, any other name the model's own pixel map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lila_cues.networks.encoder import FrozenEncoder
from lila_cues.networks.weights import file_sha256, random_seed
from lila_train.model.lila import Lila

ENCODER = "encoder"

FeatureMap = Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b c h w"]]


@runtime_checkable
class GridModel(Protocol):
    """A model that has at least a grid of tokens; RGB in [0, 1], sides multiples of the patch size."""

    @property
    def patch_size(self) -> int:
        """In pixels; the sides of images are multiples of it."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it takes images and gives features."""
        ...

    def encoder_grid(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """A feature vector per patch, row by row from the top left."""
        ...

    def encoder_taps(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Four tapped blocks, the last of which is the grid."""
        ...

    def describe(self) -> dict[str, Any]:
        """Provenance for the record: names, sizes, where weights come from."""
        ...


@runtime_checkable
class PixelModel(GridModel, Protocol):
    """A model that also gives a feature vector per pixel, under the name of `head`."""

    @property
    def head(self) -> str:
        """The name under which the pixel map is scored."""
        ...

    def pixel_map(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """A feature vector per pixel."""
        ...


@dataclass(frozen=True)
class EncoderAlone:
    """A frozen encoder without anything on top: the baseline of every table."""

    encoder: FrozenEncoder
    device: torch.device

    @property
    def patch_size(self) -> int:
        """The encoder's, in pixels."""
        return self.encoder.patch_size

    def encoder_grid(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """Tokens of the last block, after the final LayerNorm."""
        return self.encoder.grid(images)

    def encoder_taps(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """The four blocks that LILA's decoder reads, each after the final LayerNorm."""
        return self.encoder(images)

    def describe(self) -> dict[str, Any]:
        """Provenance: name and patch size of the encoder, and where its weights come from."""
        source = self.encoder.source.to_dict()
        return {"encoder": self.encoder.name, "patch_size": self.patch_size, "encoder_weights": source}


@dataclass(frozen=True)
class OnEncoder:
    """What a model with something on top of a frozen encoder takes from the encoder as it is."""

    below: EncoderAlone

    @property
    def patch_size(self) -> int:
        """The encoder's, in pixels."""
        return self.below.patch_size

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return self.below.device

    def encoder_grid(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """The encoder's."""
        return self.below.encoder_grid(images)

    def encoder_taps(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """The encoder's."""
        return self.below.encoder_taps(images)


@dataclass(frozen=True)
class LilaModel:
    """A trained model of ours: its encoder's grid, and the pixel map decoded from it."""

    lila: Lila
    device: torch.device
    head: str = "lila"

    @property
    def patch_size(self) -> int:
        """The encoder's, in pixels."""
        return self.lila.encoder.patch_size

    def encoder_grid(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """The encoder's tokens, as the decoder's input has them."""
        return self.lila.encode(images)

    def encoder_taps(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """The four blocks that the decoder reads."""
        return self.lila.encoder(images)

    def pixel_map(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """Features of zero mean and unit variance over channels."""
        return self.lila(images)

    def describe(self) -> dict[str, Any]:
        """Provenance of the encoder, and the size of the decoder."""
        parameters = sum(tensor.numel() for tensor in self.lila.decoder.parameters())
        return EncoderAlone(self.lila.encoder, self.device).describe() | {"decoder_parameters": parameters}


def encoder_identity(name: str, weights: Path | str | None) -> dict[str, Any]:
    """What decides the features of an encoder by name: the hash of a file, else the words asked for."""
    if weights is None:
        return {"encoder": name}
    if random_seed(weights) is not None:
        return {"encoder": name, "encoder_weights": str(weights)}
    return {"encoder": name, "encoder_weights_sha256": file_sha256(Path(weights))}


def feature_map(model: GridModel, head: str) -> FeatureMap:
    """From images to the map that `head` names: the grid for `encoder`, else the pixel map."""
    if head == ENCODER:
        return model.encoder_grid
    assert isinstance(model, PixelModel), f"{head} is no head of {model.describe()}"
    return model.pixel_map
