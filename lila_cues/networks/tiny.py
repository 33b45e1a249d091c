"""The two networks that need no download: a tiny image encoder and a tiny monocular depth network.

Their weights are part of the package and were trained on rendered scenes only, by docs/experiments/train_tiny.py: they
are for demonstrations and tests, not for real video.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lila_cues.networks.frozen import DepthNetwork, Execution
from lila_cues.networks.registry import PACKAGED
from lila_cues.networks.weights import WeightSource

ENCODER_WEIGHTS = PACKAGED / "tiny_encoder.safetensors"
DEPTH_WEIGHTS = PACKAGED / "tiny_depth.safetensors"
RECORD = PACKAGED / "tiny.json"  # per weight file: its SHA-256 and how it was made

PATCH_SIZE = 8
WIDTH = 96
MEAN, STD = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def encoder() -> VisionTransformer:
    """Return an untrained ViT of width 96 and 6 blocks on 8 px patches, with no class token, for images of any size.

    It takes images normalized by MEAN and STD, sides multiples of 8; `forward_features` returns the tokens of the last
    block through the final LayerNorm, row by row.
    """
    return VisionTransformer(
        img_size=112, patch_size=PATCH_SIZE, embed_dim=WIDTH, depth=6, num_heads=3, num_classes=0, global_pool="",
        class_token=False, dynamic_img_size=True,
    )  # fmt: skip


class DepthCNN(nn.Module):
    """A convolutional encoder-decoder with a global context vector at its coarsest level; works in ln q.

    q is relative inverse depth as the renderer defines it, 100 / z with z in metres.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 48, 64, 64)
        coarser = [nn.Sequential(_convolution(a, b, 2), _convolution(b, b)) for a, b in pairwise(widths)]
        self.down = nn.ModuleList([_convolution(3, widths[0], 2), *coarser])
        self.overview = nn.Linear(widths[-1], widths[-1])
        finer = [(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)]
        self.up = nn.ModuleList(nn.Sequential(_convolution(a, b), _convolution(b, b)) for a, b in finer[:-1])
        self.up.append(_convolution(*finer[-1]))
        self.head = nn.Conv2d(widths[0], 1, 3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Return q ≥ 0 of RGB in [0, 1] of any size, at that size."""
        levels = []
        x = images * 2 - 1
        for stage in self.down:
            x = stage(x)
            levels.append(x)
        x = levels.pop()
        x = x + self.overview(x.mean(dim=(2, 3)))[:, :, None, None]
        for stage in self.up:
            skip = levels.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = stage(torch.cat([x, skip], dim=1))
        log_q = 3 + F.interpolate(self.head(x), size=images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return log_q.clamp(-4.0, 7.0).exp()


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU(inplace=True)
    )


class TinyDepth(DepthNetwork):
    """The tiny depth network, frozen."""

    def __init__(self, network: nn.Module, source: WeightSource, execution: Execution | None = None) -> None:
        super().__init__(source, execution)
        self.network = network
        self._run = self.execution.prepare(self.network.forward)
        self.requires_grad_(False).eval()

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        return (f"depth network {self.name}: trained on rendered scenes only; not meant for real video",)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        with self.execution.autocast(images.device):
            return self._run(images).float()
