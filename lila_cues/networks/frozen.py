"""What every frozen network has, and the interfaces of depth and flow networks.

A new depth or flow network is one file with a subclass, a row in the registry, and a line in `load_depth` or
`load_flow`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lila_cues.networks.execution import Execution, attention_backend
from lila_cues.networks.weights import WeightSource

Settings = dict[str, str | bool | int | None]


class FrozenNetwork(nn.Module):
    """A network in eval mode for good, without gradients.

    Attributes:
        name: the name that loads it again.
        source: where its weights came from; for a store's provenance.
        execution: how it is run.
        attention: its attention backend, "sdpa" or "xformers".
    """

    def __init__(self, source: WeightSource, execution: Execution | None = None, attention: str = "sdpa") -> None:
        super().__init__()
        self.source = source
        self.name = source.network
        self.execution = execution or Execution()
        self.attention = attention
        self._attention = attention_backend(attention)

    def freeze(self) -> None:
        """Call at the end of a subclass's `__init__`."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Stay in eval mode, whatever the mode."""
        return super().train(False)

    @property
    def settings(self) -> Settings:
        """What shapes the results besides the weights; for a store's provenance."""
        return dict(self.execution.to_dict())

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return warnings to show before images of this size (y, x) are processed."""
        return ()


class DepthNetwork(FrozenNetwork):
    """Depth of single images."""

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Return relative inverse depth q ≥ 0 of RGB in [0, 1], at the images' size."""
        raise NotImplementedError


class FlowNetwork(FrozenNetwork):
    """Optical flow between images."""

    def forward(self, first: Float[Tensor, "b 3 H W"], second: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 2 H W"]:
        """Return flow in px from the first to the second image, RGB in [0, 1]; channel 0 to the right, 1 downwards."""
        return self.between(torch.cat([first, second]), torch.arange(2 * len(first)).view(2, -1).T)

    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        """Return flow from image `pairs[:, 0]` to image `pairs[:, 1]`; features of an image are computed once."""
        raise NotImplementedError
