"""The two networks that need no download: a tiny image encoder and a tiny monocular depth network.

Both were trained on rendered scenes by `python docs/experiments/train_tiny.py`; their weights are part of the package.
They are for demonstration: they know the renderer's world and no other.

The tiny depth network, frozen, behind the interface of all depth networks.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from lila_cues.networks.execution import Execution
from lila_cues.networks.weights import WeightSource

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
ENCODER_WEIGHTS = WEIGHTS / "tiny_encoder.safetensors"
DEPTH_WEIGHTS = WEIGHTS / "tiny_depth.safetensors"
RECORD = WEIGHTS / "tiny.json"
LICENCE = "apache-2.0"

PATCH_SIZE = 8
WIDTH = 96
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

DEPTH_WIDTHS = (16, 32, 48, 64, 64)


def encoder() -> VisionTransformer:
    """A ViT of width 96 and 6 blocks on 8 px patches, with no class token, for images of any size; untrained.

    Takes images normalised by MEAN and STD, sides multiples of 8. `forward_features` gives the tokens of the last
    block, through the final LayerNorm, row by row.
    """
    return VisionTransformer(
        img_size=112,
        patch_size=PATCH_SIZE,
        embed_dim=WIDTH,
        depth=6,
        num_heads=3,
        num_classes=0,
        global_pool="",
        class_token=False,
        dynamic_img_size=True,
    )


def depth() -> DepthCNN:
    """The depth network, untrained."""
    return DepthCNN(DEPTH_WIDTHS)


def record() -> dict[str, dict[str, object]]:
    """Per weight file in the package: its SHA-256, and how it was made."""
    return json.loads(RECORD.read_text())


class DepthCNN(nn.Module):
    """An encoder-decoder of convolutions that sees the whole image at its coarsest level, and works in ln q.

    q is relative inverse depth as the renderer defines it, 100 / z with z in metres.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        coarser = [nn.Sequential(_convolution(a, b, 2), _convolution(b, b)) for a, b in pairwise(widths)]
        self.down = nn.ModuleList([_convolution(3, widths[0], 2), *coarser])
        self.overview = nn.Linear(widths[-1], widths[-1])
        finer = [(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)]
        self.up = nn.ModuleList(nn.Sequential(_convolution(a, b), _convolution(b, b)) for a, b in finer[:-1])
        self.up.append(_convolution(*finer[-1]))
        self.head = nn.Conv2d(widths[0], 1, 3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Images RGB in [0, 1], any size; q ≥ 0 at that size."""
        height, width = images.shape[-2:]
        levels = []
        x = images * 2 - 1
        for stage in self.down:
            x = stage(x)
            levels.append(x)
        x = levels.pop()
        x = x + self.overview(x.mean(dim=(2, 3)))[:, :, None, None]
        for stage in self.up:
            skip = levels.pop()
            x = stage(torch.cat([_resized(x, skip.shape[-2], skip.shape[-1]), skip], dim=1))
        log_q = 3 + _resized(self.head(x), height, width)[:, 0]
        return log_q.clamp(-4.0, 7.0).exp()


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU(inplace=True)
    )


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


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
