"""Building a frozen encoder by name, with weights from the hub, a local file, the package, or none at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lila_cues.networks import hub, position, tiny, vit_names
from lila_cues.networks.encoder import FrozenEncoder
from lila_cues.networks.weights import (
    NOT_STATED,
    WeightSource,
    check_hash,
    file_sha256,
    load_strictly,
    random_seed,
    read_tensors,
    tensors_sha256,
)
from stores.errors import LilaError

OPTION = "--encoder-weights"
TINY = "tiny"

_ALIASES = {
    "dinov2_vits14": "vit_small_patch14_dinov2",
    "dinov2_vitb14": "vit_base_patch14_dinov2",
    "dinov2_vitl14": "vit_large_patch14_dinov2",
    "dinov2_vitg14": "vit_giant_patch14_dinov2",
    "dinov2_vits14_reg": "vit_small_patch14_reg4_dinov2",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2",
    "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2",
    "dinov2_vitg14_reg": "vit_giant_patch14_reg4_dinov2",
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3",
    "dinov3_vit7b16": "vit_7b_patch16_dinov3",
}


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
    sha256: str | None = None,
) -> FrozenEncoder:
    """A frozen encoder by name: "tiny", a short name such as dinov2_vits14, or any plain ViT of timm.

    `weights`: a local file in timm's or the original naming, "random:SEED" for untrained ones, or None for the hub
    (a name may end in "@" and a revision there). `sha256`: what a checkpoint has recorded of them.
    """
    plain_name, _, revision = name.partition("@")
    plan = _plan(plain_name)
    seed = random_seed(weights)
    if seed is not None:
        return _untrained(plan, name, seed, attention, sha256).to(device)
    path, source = _locate(plan, name, weights, revision or None)
    source = replace(source, sha256=file_sha256(path))
    check_hash(str(source.sha256), sha256, str(path), OPTION)
    tensors = read_tensors(path, OPTION)
    return _assemble(plan, tensors, source, attention).to(device)


def restore_encoder(
    source: WeightSource,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
) -> FrozenEncoder:
    """The encoder that a checkpoint or a store has recorded; `weights` where its file lies elsewhere now.

    A file with another hash than the recorded one is an error.
    """
    place = weights
    if place is None and source.origin in ("file", "random"):
        place = source.location
    return load_encoder(source.network, place, device, attention, source.sha256)


def encoder_from_tensors(
    name: str, tensors: Mapping[str, Tensor], source: WeightSource, attention: str = "sdpa"
) -> FrozenEncoder:
    """A frozen encoder from tensors at hand, in timm's or the original naming, such as those inside a checkpoint."""
    return _assemble(_plan(name.partition("@")[0]), tensors, source, attention)


def _assemble(plan: _Plan, tensors: Mapping[str, Tensor], source: WeightSource, attention: str) -> FrozenEncoder:
    named = vit_names.to_timm(tensors, plan.vit.state_dict().keys())
    load_strictly(plan.vit, named, source.location, OPTION)
    return FrozenEncoder(plan.vit, plan.mean, plan.std, source, attention, plan.position_offset)


def _untrained(plan: _Plan, name: str, seed: int, attention: str, sha256: str | None) -> FrozenEncoder:
    """Weights drawn anew from a seed: for tests, and for measuring speed where no file is to be had."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = _plan(name.partition("@")[0]).vit
    digest = tensors_sha256(vit.state_dict())
    check_hash(digest, sha256, f"the draw of random:{seed}", OPTION)
    source = WeightSource(name, "random", f"random:{seed}", None, digest, "none needed")
    return FrozenEncoder(vit, plan.mean, plan.std, source, attention, plan.position_offset)


def _locate(plan: _Plan, name: str, weights: Path | str | None, revision: str | None) -> tuple[Path, WeightSource]:
    """The weight file and its record, the hash of the file still to be filled in."""
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise LilaError(
                f"expected the weights of {name} at {path}, found no such file; give its place with {OPTION}"
            )
        return path, WeightSource(name, "file", str(path.resolve()), None, None, plan.file_licence)
    if name == TINY:
        return tiny.ENCODER_WEIGHTS, WeightSource(name, "package", tiny.ENCODER_WEIGHTS.name, None, None, plan.licence)
    if plan.hub_id is None:
        raise LilaError(f"expected weights for {name}, which has none on the hub; give a local file with {OPTION}")
    path, commit = hub.fetch(plan.hub_id, "model.safetensors", revision, OPTION)
    return path, WeightSource(name, "hub", plan.hub_id, commit, None, plan.licence)


def _plan(name: str) -> _Plan:
    if name == TINY:
        return _Plan(tiny.encoder(), tiny.MEAN, tiny.STD, None, None, tiny.LICENCE, tiny.LICENCE)
    architecture = _ALIASES.get(name, name)
    if not timm.is_model(architecture.partition(".")[0]):
        raise LilaError(
            f"expected an encoder named tiny, {', '.join(list(_ALIASES)[:4])}, … or a vision transformer of timm, "
            f"found {name}; `lila-cues models` lists them"
        )
    settings = timm.get_pretrained_cfg(architecture)
    vit = timm.create_model(architecture, pretrained=False, num_classes=0, dynamic_img_size=True)
    if not isinstance(vit, VisionTransformer | Eva) or hasattr(vit, "dist_token") or settings is None:
        raise LilaError(f"expected a plain vision transformer, found {name}, a {type(vit).__name__}; choose a ViT")
    plain_dinov2 = "dinov2" in architecture and vit.reg_token is None
    offset = position.DINOV2_OFFSET if plain_dinov2 else None
    licence = settings.license or NOT_STATED
    file_licence = licence if "dinov" in architecture else NOT_STATED
    return _Plan(vit, settings.mean, settings.std, offset, settings.hf_hub_id, licence, file_licence)
