"""Building a frozen encoder by name, with weights from the hub, a local file, the package, or none at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lila_cues.networks import encoder, hub, registry, state_dicts, tiny
from lila_cues.networks.encoder import FrozenEncoder
from lila_cues.networks.execution import Execution
from lila_cues.networks.weights import (
    NOT_STATED,
    WeightSource,
    drawn,
    load_strictly,
    local_file,
    random_seed,
    read_tensors,
    recorded,
    untrained,
)
from stores.errors import LilaError

OPTION = "--encoder-weights"
TINY = "tiny"


@dataclass(frozen=True)
class _Plan:
    """A transformer without its weights, and what its images have to be like."""

    vit: VisionTransformer | Eva
    mean: tuple[float, ...]
    std: tuple[float, ...]
    position_offset: float | None
    hub_id: str | None
    licence: str
    file_licence: str  # of a local file: only where all weights of the architecture are under one licence


def load_encoder(
    name: str,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
    execution: Execution | None = None,
    sha256: str | None = None,
) -> FrozenEncoder:
    """A frozen encoder by name: "tiny", a short name such as dinov2_vits14, or any plain ViT of timm.

    `weights`: a local file in timm's or the original naming, "random:SEED" for untrained ones, or None for the hub
    (a name may end in "@" and a revision there). `sha256`: what a checkpoint has recorded of them.
    """
    name, _, revision = name.partition("@")
    seed = random_seed(weights)
    with drawn(seed):
        plan = _plan(name)
    if seed is not None:
        source = untrained(name, plan.vit, seed, OPTION, sha256)
    else:
        path, source = _locate(plan, name, weights, revision or None, sha256)
        _load(plan, read_tensors(path, OPTION), str(path))
    return _freeze(plan, source, attention, execution).to(device)


def restore_encoder(
    source: WeightSource,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
    execution: Execution | None = None,
) -> FrozenEncoder:
    """The encoder that a checkpoint or a store has recorded; `weights` where its file lies elsewhere now.

    The hub is asked for the recorded commit. A file with another hash than the recorded one is an error.
    """
    place = weights
    if place is None and source.origin in ("file", "random"):
        place = source.location
    name = f"{source.network}@{source.revision}" if source.origin == "hub" else source.network
    return load_encoder(name, place, device, attention, execution, source.sha256)


def encoder_from_tensors(
    name: str,
    tensors: Mapping[str, Tensor],
    source: WeightSource,
    attention: str = "sdpa",
    execution: Execution | None = None,
) -> FrozenEncoder:
    """A frozen encoder from tensors at hand, in timm's or the original naming, such as those inside a checkpoint."""
    plan = _plan(name)
    _load(plan, tensors, source.location)
    return _freeze(plan, source, attention, execution)


def _load(plan: _Plan, tensors: Mapping[str, Tensor], place: str) -> None:
    load_strictly(plan.vit, state_dicts.to_timm(tensors, plan.vit.state_dict().keys()), place, OPTION)


def _freeze(plan: _Plan, source: WeightSource, attention: str, execution: Execution | None) -> FrozenEncoder:
    return FrozenEncoder(plan.vit, plan.mean, plan.std, source, attention, plan.position_offset, execution)


def _locate(
    plan: _Plan, name: str, weights: Path | str | None, revision: str | None, sha256: str | None
) -> tuple[Path, WeightSource]:
    if weights is not None:
        return local_file(name, weights, plan.file_licence, OPTION, sha256)
    if name == TINY:
        packaged = tiny.ENCODER_WEIGHTS
        source = WeightSource(name, "package", packaged.name, None, None, plan.licence)
        return packaged, recorded(source, packaged, OPTION, sha256)
    if plan.hub_id is None:
        raise LilaError(f"expected weights for {name}, which has none on the hub; give a local file with {OPTION}")
    path, commit = hub.fetch(plan.hub_id, "model.safetensors", revision, OPTION)
    return path, recorded(WeightSource(name, "hub", plan.hub_id, commit, None, plan.licence), path, OPTION, sha256)


def _plan(name: str) -> _Plan:
    if name == TINY:
        return _Plan(tiny.encoder(), tiny.MEAN, tiny.STD, None, None, tiny.LICENCE, tiny.LICENCE)
    known = registry.entry(registry.ENCODER, name)
    architecture = known.architecture if known else name
    if not timm.is_model(architecture.partition(".")[0]):
        raise LilaError(
            f"expected an encoder named {', '.join(registry.names(registry.ENCODER)[:4])}, … or a vision transformer "
            f"of timm, found {name}; `lila-cues models` lists them"
        )
    settings = timm.get_pretrained_cfg(architecture)
    vit = _transformer(architecture, name)
    assert settings is not None
    plain_dinov2 = "dinov2" in architecture and vit.reg_token is None
    offset = encoder.DINOV2_OFFSET if plain_dinov2 else None
    licence = settings.license or NOT_STATED
    file_licence = licence if "dinov" in architecture else NOT_STATED
    return _Plan(vit, settings.mean, settings.std, offset, settings.hf_hub_id, licence, file_licence)


def _transformer(architecture: str, name: str) -> VisionTransformer | Eva:
    """timm's network without its head, for images of any size."""
    try:
        vit = timm.create_model(architecture, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError:  # of a network that has no such argument
        vit = timm.create_model(architecture, pretrained=False, num_classes=0)
    if not isinstance(vit, VisionTransformer | Eva) or hasattr(vit, "dist_token"):
        raise LilaError(f"expected a plain vision transformer, found {name}, a {type(vit).__name__}; choose a ViT")
    return vit
