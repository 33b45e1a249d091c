"""Depth networks by name, and Depth Anything V2 (Yang et al., NeurIPS 2024) by transformers."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from lila_cues.networks import hub, registry, tiny
from lila_cues.networks.encoder import DINOV2_OFFSET, interpolate_positions
from lila_cues.networks.frozen import DepthNetwork, Execution
from lila_cues.networks.weights import WEIGHT_FILE, WeightSource, load_network, locate, published_revision, random_seed
from stores.errors import LilaError, first_line

OPTION = "--depth-weights"
PATCH_SIZE = 14
_SHAPES = {  # width, blocks, heads, tapped blocks counted from 1, reassemble widths, fusion width
    "small": (384, 12, 6, (3, 6, 9, 12), (48, 96, 192, 384), 64),
    "base": (768, 12, 12, (3, 6, 9, 12), (96, 192, 384, 768), 128),
    "large": (1024, 24, 16, (5, 12, 18, 24), (256, 512, 1024, 1024), 256),
}


def load_depth(
    name: str,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    execution: Execution | None = None,
) -> DepthNetwork:
    """Load a frozen depth network.

    Args:
        name: "tiny" or depth_anything_v2_small, _base or _large; "@REVISION" may follow for the hub.
        weights: a local file for tiny, a folder as transformers saves it for Depth Anything, "random:SEED" for
            untrained ones, or None for the package and the hub.

    The other arguments and the errors are those of `load_encoder`.
    """
    name, _, revision = name.partition("@")
    entry = registry.entry(registry.DEPTH, name)
    if entry is None:
        raise LilaError(
            f"expected a depth network among {', '.join(registry.names(registry.DEPTH))}, or files:DIR for maps of "
            f"your own, found {name}; pass one with --depth"
        )
    if entry.is_packaged:
        return tiny.TinyDepth(*load_network(tiny.DepthCNN, entry, weights, OPTION), execution).to(device)
    if random_seed(weights) is not None:
        size = entry.name.rpartition("_")[2]
        network, source = load_network(lambda: build(size), entry, weights, OPTION)
    elif weights is not None:
        path, source = locate(entry, Path(weights) / WEIGHT_FILE, OPTION)
        network, source = _read(path.parent), replace(source, location=str(path.parent))
    else:
        _, commit = hub.fetch(entry.place, "config.json", published_revision(entry, revision or None), OPTION)
        path, source = locate(entry, None, OPTION, commit, None if revision else entry.pin[1])
        network = _read(path.parent)
    return DepthAnything(network, source, execution).to(device)


class DepthAnything(DepthNetwork):
    """Depth Anything V2, frozen.

    It runs on the multiples of 14, its patch size, that are nearest to the image's sides. Its map is resized to the
    image's size, and its position embedding with DINOv2's offset, as its authors do and transformers does not (3 % of
    the map's deviation at 224 px).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, source: WeightSource, execution: Execution | None = None) -> None:
        super().__init__(source, execution)
        self.network = network
        backbone: Any = network.backbone
        backbone.embeddings.interpolate_pos_encoding = partial(_positions, backbone.embeddings)
        self._run = self.execution.prepare(network.forward)
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        height, width = images.shape[-2:]
        size = working_size(height, width)
        if size != (height, width):
            images = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        with self.execution.attend(), self.execution.autocast(images.device):
            q = self._run(pixel_values=(images - self.mean) / self.std).predicted_depth.float()[:, None]
        return F.interpolate(q, size=(height, width), mode="bilinear", align_corners=True)[:, 0]


def _positions(embeddings: Any, tokens: Tensor, height: int, width: int) -> Float[Tensor, "1 n e"]:
    """Return the positions of the class token and of the patches of an image, in place of transformers' own method."""
    learned = embeddings.position_embeddings
    side = math.isqrt(learned.shape[1] - 1)
    patches = learned[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    patches = interpolate_positions(patches, (height // PATCH_SIZE, width // PATCH_SIZE), DINOV2_OFFSET)
    return torch.cat([learned[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def working_size(height: int, width: int) -> tuple[int, int]:
    """Return the multiples of the patch size that are nearest to the sides of an image."""
    return max(1, round(height / PATCH_SIZE)) * PATCH_SIZE, max(1, round(width / PATCH_SIZE)) * PATCH_SIZE


def _read(folder: Path) -> nn.Module:
    """Load all tensors, and no others, of a folder as transformers saves it: config.json and model.safetensors."""
    from transformers import DepthAnythingForDepthEstimation
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded: Any = DepthAnythingForDepthEstimation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise LilaError(
            f"expected Depth Anything V2 in {folder} (config.json and model.safetensors, as transformers saves it), "
            f"but it cannot be read ({first_line(error)}); give another folder with {OPTION}"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    network, report = loaded
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or unexpected:
        raise LilaError(
            f"expected all tensors of Depth Anything V2 in {folder}, found {len(missing)} missing "
            f"({', '.join(missing[:3])}) and {len(unexpected)} unexpected ({', '.join(unexpected[:3])}); "
            f"give another folder with {OPTION}"
        )
    kind, patch = network.config.depth_estimation_type, network.config.patch_size
    if (kind, patch) != ("relative", PATCH_SIZE):
        raise LilaError(
            f"expected a network of relative inverse depth on patches of {PATCH_SIZE} px in {folder}, found one of "
            f"{kind} depth on {patch} px; give another folder with {OPTION}"
        )
    return network


def build(size: str) -> nn.Module:
    """Return an untrained Depth Anything V2: "small", "base" or "large"."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    width, blocks, heads, taps, reassemble, fusion = _SHAPES[size]
    backbone = Dinov2Config(  # type: ignore[call-arg]  # it takes out_features apart
        hidden_size=width, num_hidden_layers=blocks, num_attention_heads=heads, image_size=518, patch_size=PATCH_SIZE,
        out_features=[f"stage{tap}" for tap in taps], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    sizes: dict[str, Any] = {"neck_hidden_sizes": list(reassemble), "fusion_hidden_size": fusion}
    config = DepthAnythingConfig(backbone_config=backbone, reassemble_hidden_size=width, **sizes)
    network: nn.Module = DepthAnythingForDepthEstimation(config)
    return network
