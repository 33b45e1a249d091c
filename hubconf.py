"""Entry points of `torch.hub.load("OWNER/REPOSITORY", NAME, …)`; options are those of `lila_train.load`."""

from __future__ import annotations

from pathlib import Path

import torch

from lila_train.model.lila import Lila
from lila_train.model.lila import load as _load  # hidden from torch.hub.list

dependencies = ["huggingface_hub", "jaxtyping", "numpy", "PIL", "safetensors", "timm", "torch", "torchvision"]


def lila(
    weights: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    encoder_weights: str | Path | None = None,
) -> Lila:
    """Load a model by the path of its weights, or by a published name."""
    return _load(weights, device=device, dtype=dtype, encoder_weights=encoder_weights)


def lila_dinov2_vits14(device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Lila:
    """Load the published DINOv2 ViT-S/14, trained on YouTube-VOS."""
    return _load("lila_dinov2_vits14", device=device, dtype=dtype)


def lila_dinov2_vitb14(device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Lila:
    """Load the published DINOv2 ViT-B/14, trained on YouTube-VOS."""
    return _load("lila_dinov2_vitb14", device=device, dtype=dtype)


def lila_dinov2_vitl14(device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Lila:
    """Load the published DINOv2 ViT-L/14, trained on YouTube-VOS."""
    return _load("lila_dinov2_vitl14", device=device, dtype=dtype)


def lila_dinov2_vitl14_kts(device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Lila:
    """Load the published DINOv2 ViT-L/14, trained on Kinetics-700."""
    return _load("lila_dinov2_vitl14_kts", device=device, dtype=dtype)
