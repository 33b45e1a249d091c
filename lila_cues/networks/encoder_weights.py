"""Frozen encoders by name, with weights from the hub, a local file, the package, a checkpoint, or none at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lila_cues.networks import registry, state_dicts, tiny
from lila_cues.networks.encoder import DINOV2_OFFSET, FrozenEncoder
from lila_cues.networks.execution import Execution
from lila_cues.networks.registry import ENCODER, Entry
from lila_cues.networks.weights import WeightSource, load_network, load_strictly
from stores.errors import LilaError

OPTION = "--encoder-weights"


def load_encoder(
    name: str,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
    execution: Execution | None = None,
    sha256: str | None = None,
) -> FrozenEncoder:
    """Load a frozen encoder.

    Args:
        name: "tiny", a short name such as dinov2_vits14, or any plain ViT of timm; "@REVISION" may follow for the hub.
        weights: a local file in timm's or the original naming, "random:SEED" for untrained ones, or None for the hub.
        device: where the network goes.
        attention: backend, "sdpa" or "xformers".
        execution: how it is run; float32 and eager if None.
        sha256: the recorded hash that the weights must have.

    Raises:
        LilaError: an unknown name, or weights that are missing, unreadable, of another network or of another hash.
    """
    name, _, revision = name.partition("@")
    entry = _entry(name)
    vit, source = load_network(
        lambda: _build(entry), entry, weights, OPTION, revision or None, sha256,
        rename=lambda tensors, vit: state_dicts.to_timm(tensors, vit.state_dict().keys()),
    )  # fmt: skip
    return FrozenEncoder(vit, *_input_settings(entry, vit), source, attention, execution).to(device)


def restore_encoder(
    source: WeightSource,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
    execution: Execution | None = None,
) -> FrozenEncoder:
    """Load the encoder that a checkpoint or a store has recorded, from `weights` where its file has moved.

    The hub is asked for the recorded commit. Raises LilaError where the hash differs from the recorded one.
    """
    if weights is None and source.origin in ("file", "random"):
        weights = source.location
    name = f"{source.network}@{source.revision}" if source.origin == "hub" else source.network
    return load_encoder(name, weights, device, attention, execution, source.sha256)


def encoder_from_tensors(
    name: str,
    tensors: Mapping[str, Tensor],
    source: WeightSource,
    attention: str = "sdpa",
    execution: Execution | None = None,
) -> FrozenEncoder:
    """Return a frozen encoder with the given tensors, in timm's or the original naming, such as a checkpoint's."""
    entry = _entry(name)
    vit = _build(entry)
    load_strictly(vit, state_dicts.to_timm(tensors, vit.state_dict().keys()), source.location, OPTION)
    return FrozenEncoder(vit, *_input_settings(entry, vit), source, attention, execution)


def _entry(name: str) -> Entry:
    """Return the registry's row, or one made of what timm knows of the name."""
    known = registry.entry(ENCODER, name)
    if known is not None:
        return known
    if not timm.is_model(name.partition(".")[0]):
        raise LilaError(
            f"expected an encoder named {', '.join(registry.names(ENCODER)[:4])}, … or a vision transformer of timm, "
            f"found {name}; `lila-cues models` lists them"
        )
    settings: Any = timm.get_pretrained_cfg(name)
    licence = settings.license or registry.NOT_STATED
    return Entry(ENCODER, name, settings.hf_hub_id or "", licence, 0, name, one_licence="dinov" in name)


def _build(entry: Entry) -> VisionTransformer | Eva:
    """Return the network without its head and its weights, for images of any size."""
    if entry.is_packaged:
        return tiny.encoder()
    try:
        vit = timm.create_model(entry.architecture, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError:  # a network without that argument
        vit = timm.create_model(entry.architecture, pretrained=False, num_classes=0)
    if not isinstance(vit, VisionTransformer | Eva) or hasattr(vit, "dist_token"):
        raise LilaError(
            f"expected a plain vision transformer, found {entry.name}, a {type(vit).__name__}; choose a ViT"
        )
    return vit


def _input_settings(entry: Entry, vit: VisionTransformer | Eva) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Return the mean and std of the images, and the offset by which positions are resized."""
    if entry.is_packaged:
        return tiny.MEAN, tiny.STD, 0.0
    settings: Any = timm.get_pretrained_cfg(entry.architecture)
    plain_dinov2 = "dinov2" in entry.architecture and vit.reg_token is None
    return settings.mean, settings.std, DINOV2_OFFSET if plain_dinov2 else 0.0
