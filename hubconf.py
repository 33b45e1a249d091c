"""Entry points of `torch.hub.load("OWNER/REPOSITORY", NAME, …)`; other options are those of `lila_train.load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lila_train.model.lila import Lila as _Lila  # what torch.hub.list is not to show begins with _
from lila_train.model.lila import NormalizedLila as _NormalizedLila
from lila_train.model.lila import load as _load
from lila_train.model.released import encoder_of_name as _encoder_of_name
from stores.errors import LilaError as _LilaError

dependencies = ["huggingface_hub", "jaxtyping", "numpy", "PIL", "safetensors", "timm", "torch", "torchvision"]


def lila(weights: str | Path, **options: Any) -> _Lila:
    """Load a model by the path of its weights, or by a published name."""
    return _load(weights, **options)


def lila_reference(weights: str | Path, **options: Any) -> _NormalizedLila:
    """Load a model that is called as the published code's: ImageNet-normalized images in, `(grid, map)` out."""
    return _NormalizedLila(_load(weights, **options))


def lila_vit_tiny(pretrained: bool = True, **options: Any) -> _Lila:
    """Load the small model of this package, a ViT-Ti/16 trained on 30 sequences of DAVIS 2016."""
    return _published("lila_vit_tiny", pretrained, None, options)


def lila_dinov2_vits14(pretrained: bool = True, checkpoint_path: str | Path | None = None, **options: Any) -> _Lila:
    """Load the published DINOv2 ViT-S/14, trained on YouTube-VOS, or another file of its kind."""
    return _published("lila_dinov2_vits14", pretrained, checkpoint_path, options)


def lila_dinov2_vitb14(pretrained: bool = True, checkpoint_path: str | Path | None = None, **options: Any) -> _Lila:
    """Load the published DINOv2 ViT-B/14, trained on YouTube-VOS, or another file of its kind."""
    return _published("lila_dinov2_vitb14", pretrained, checkpoint_path, options)


def lila_dinov2_vitl14(pretrained: bool = True, checkpoint_path: str | Path | None = None, **options: Any) -> _Lila:
    """Load the published DINOv2 ViT-L/14, trained on YouTube-VOS, or another file of its kind."""
    return _published("lila_dinov2_vitl14", pretrained, checkpoint_path, options)


def lila_dinov2_vitl14_kts(pretrained: bool = True, checkpoint_path: str | Path | None = None, **options: Any) -> _Lila:
    """Load the published DINOv2 ViT-L/14, trained on Kinetics-700, or another file of its kind."""
    return _published("lila_dinov2_vitl14_kts", pretrained, checkpoint_path, options)


def lila_dinov2reg_vits14(pretrained: bool = True, checkpoint_path: str | Path | None = None, **options: Any) -> _Lila:
    """Load a DINOv2 ViT-S/14 with registers from a file; none is published."""
    return _published("lila_dinov2reg_vits14", pretrained, checkpoint_path, options)


def lila_dinov2reg_vitb14(pretrained: bool = True, checkpoint_path: str | Path | None = None, **options: Any) -> _Lila:
    """Load a DINOv2 ViT-B/14 with registers from a file; none is published."""
    return _published("lila_dinov2reg_vitb14", pretrained, checkpoint_path, options)


def lila_dinov2reg_vitl14(pretrained: bool = True, checkpoint_path: str | Path | None = None, **options: Any) -> _Lila:
    """Load a DINOv2 ViT-L/14 with registers from a file; none is published."""
    return _published("lila_dinov2reg_vitl14", pretrained, checkpoint_path, options)


def _published(name: str, pretrained: bool, checkpoint_path: str | Path | None, options: dict[str, Any]) -> _Lila:
    """Load a published name, or a file whose encoder it names."""
    if not pretrained:
        raise _LilaError("expected pretrained=True: an untrained decoder gives no features; leave the argument out")
    if checkpoint_path is None:
        return _load(name, **options)
    return _load(checkpoint_path, encoder=_encoder_of_name(name), **options)
