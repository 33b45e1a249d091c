"""Networks that turn an encoder's grid into a map of the pixels, from clones of their authors' repositories.

All stand on the same frozen encoder of ours, so that what differs between rows of a table is the upsampler alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder, load_encoder
from lila_cues.networks.weights import drawn, random_seed
from lila_train.evaluation.baselines.asked import Asked
from lila_train.evaluation.baselines.clones import Code
from lila_train.evaluation.baselines.weight_files import load_weights
from lila_train.evaluation.models import ENCODER, EncoderAlone, OnEncoder, encoder_identity
from lila_train.sizes import size_of, to_size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: every one of them was trained so

Call = Callable[[nn.Module, FrozenEncoder, Float[Tensor, "b 3 H W"]], Float[Tensor, "b d y x"]]


@dataclass(frozen=True)
class UpsampledModel(OnEncoder):
    """An encoder and a network on top of it."""

    network: nn.Module
    call: Call
    head: str
    about: Mapping[str, Any]

    @torch.no_grad()
    def pixel_map(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """The network's map; one of another size than the image is brought to it bilinearly."""
        return to_size(self.call(self.network, self.below.encoder, images), size_of(images))

    def describe(self) -> dict[str, Any]:
        """Provenance of the encoder, and of the code on top."""
        return self.below.describe() | {"baseline": dict(self.about)}


@dataclass(frozen=True)
class Upsampler:
    """A row of the catalog. `build` makes the network from the code's folder; `weights` says where its file is."""

    name: str
    code: Code
    licence: str
    encoder: str
    weights: str
    build: Callable[[Path, FrozenEncoder], nn.Module]  # of the code's folder
    call: Call
    prefixes: Mapping[str, str] = field(default_factory=lambda: {"": ""})

    @property
    def heads(self) -> tuple[str, ...]:
        """The encoder alone, and the map on top of it by the name of this row."""
        return (ENCODER, self.name)

    def identity(self, asked: Asked) -> dict[str, Any]:
        """The code's revision (or that it is a clone of the user's), the weights and the encoder."""
        revision = self.code.revision if asked.repository is None else "a local clone"
        chosen = {"baseline": self.name, "repository": self.code.repository, "revision": revision}
        weights = asked.weights_identity() or {"baseline_weights": self.weights}
        return chosen | weights | encoder_identity(asked.encoder or self.encoder, asked.encoder_weights)

    def load(self, asked: Asked, device: torch.device) -> UpsampledModel:
        """The encoder asked for (or the one that the published weights were trained on) and the network on it."""
        encoder = load_encoder(asked.encoder or self.encoder, asked.encoder_weights, device)
        root = self.code.root(asked.repository)
        with drawn(random_seed(asked.weights)):
            network = self.build(root, encoder)
        load_weights(network, self.weights, asked.weights, self.prefixes)
        network.requires_grad_(False).eval().to(device)
        about = {"name": self.name, "licence": self.licence, **self.identity(asked)}
        return UpsampledModel(EncoderAlone(encoder, device), network, self.call, self.name, about)


def normalised(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Images in [0, 1] as ImageNet's networks take them."""
    mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std
