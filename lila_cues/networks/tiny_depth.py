"""The tiny depth network, frozen, behind the interface of all depth networks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_cues.networks.execution import Execution
from lila_cues.networks.weights import WeightSource


class TinyDepth(nn.Module):
    """A small network that gives q at the size of its images, in eval mode for good, without gradients."""

    def __init__(self, network: nn.Module, source: WeightSource, execution: Execution | None = None) -> None:
        super().__init__()
        self.network = network
        self.source = source
        self.name = source.network
        self.execution = execution or Execution()
        self._run = self.execution.prepare(self.network.forward)
        self.requires_grad_(False)
        self.eval()

    @property
    def settings(self) -> dict[str, str | bool | int | None]:
        """What shapes the maps besides the weights."""
        return self.execution.to_dict()

    def train(self, mode: bool = True) -> TinyDepth:
        """Frozen means frozen: stays in eval mode."""
        return super().train(False)

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """What a person should know before: it knows rendered scenes only."""
        return (f"depth by {self.name}: a demonstration, trained on rendered scenes and at a loss in real ones",)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Relative inverse depth q ≥ 0 of RGB in [0, 1], at the images' size."""
        with self.execution.autocast(images.device):
            pieces = [self._run(piece).float() for (piece,) in self.execution.batches(images)]
        return torch.cat(pieces)
