"""Relative inverse depth by name: what a depth network is to the rest of stage one, and how one is loaded.

Depth Anything V2 (Yang et al., NeurIPS 2024) by transformers: relative inverse depth of single images.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.utils import logging

from lila_cues.networks import hub, registry, tiny
from lila_cues.networks.execution import Execution, backend
from lila_cues.networks.tiny import TinyDepth
from lila_cues.networks.weights import (
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

OPTION = "--depth-weights"
TINY = "tiny"
_DEPTH_ANYTHING = "depth_anything_v2_"


@runtime_checkable
class DepthNetwork(Protocol):
    """Depth of single images, frozen. A new one is one small file and a line in `load_depth`."""

    @property
    def name(self) -> str:
        """The name by which `load_depth` gives it again."""
        ...

    @property
    def source(self) -> WeightSource:
        """Where its weights are from; for a store's provenance."""
        ...

    @property
    def settings(self) -> dict[str, str | bool | int | None]:
        """What shapes the maps besides the weights; for a store's provenance."""
        ...

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Sentences to show before images of this size (y, x) go in."""
        ...

    def __call__(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Relative inverse depth q ≥ 0 of RGB in [0, 1], at the images' size."""
        ...


def load_depth(
    name: str,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
    side: int | None = None,
    execution: Execution | None = None,
    sha256: str | None = None,
) -> DepthNetwork:
    """A depth network: "tiny" (of the package), or depth_anything_v2_ with small, base or large.

    `weights`: a local file for tiny, a local folder as transformers saves it for Depth Anything, "random:SEED", or
    None for the package and the hub (a name may end in "@" and a revision there). `side`: the short side at which
    Depth Anything works, the images' own if None.
    """
    name, _, revision = name.partition("@")
    if name not in registry.names(registry.DEPTH):
        raise LilaError(
            f"expected a depth network among {', '.join(registry.names(registry.DEPTH))}, or files:DIR for maps of "
            f"your own, found {name}; pass one with --depth"
        )
    if name == TINY:
        return _tiny(weights, execution, sha256).to(device)

    network, source = _depth_anything(name, weights, revision or None, sha256)
    return DepthAnything(network, source, side, attention, execution).to(device)


def _tiny(weights: Path | str | None, execution: Execution | None, sha256: str | None) -> TinyDepth:
    seed = random_seed(weights)
    with drawn(seed):
        network = tiny.depth()
    if seed is not None:
        return TinyDepth(network, untrained(TINY, network, seed, OPTION, sha256), execution)
    if weights is not None:
        path, source = local_file(TINY, weights, tiny.LICENCE, OPTION, sha256)
    else:
        path = tiny.DEPTH_WEIGHTS
        source = recorded(WeightSource(TINY, "package", path.name, None, None, tiny.LICENCE), path, OPTION, sha256)
    load_strictly(network, read_tensors(path, OPTION), str(path), OPTION)
    return TinyDepth(network, source, execution)


def _depth_anything(
    name: str, weights: Path | str | None, revision: str | None, sha256: str | None
) -> tuple[DepthAnythingForDepthEstimation, WeightSource]:

    known = registry.entry(registry.DEPTH, name)
    assert known is not None
    seed = random_seed(weights)
    if seed is not None:
        with drawn(seed):
            network = build(name.removeprefix(_DEPTH_ANYTHING))
        return network, untrained(name, network, seed, OPTION, sha256)
    if weights is not None:
        file, source = local_file(name, Path(weights) / WEIGHTS, known.licence, OPTION, sha256)
        source = replace(source, location=str(file.parent))
    else:
        _, commit = hub.fetch(known.place, CONFIGURATION, revision, OPTION)
        file, _ = hub.fetch(known.place, WEIGHTS, commit, OPTION)
        source = recorded(WeightSource(name, "hub", known.place, commit, None, known.licence), file, OPTION, sha256)
    return read(file.parent, OPTION), source


CONFIGURATION, WEIGHTS = "config.json", "model.safetensors"
PATCH_SIZE = 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHAPES = {  # width, blocks, heads, tapped blocks counted from 1, reassemble widths, fusion width
    "small": (384, 12, 6, (3, 6, 9, 12), (48, 96, 192, 384), 64),
    "base": (768, 12, 12, (3, 6, 9, 12), (96, 192, 384, 768), 128),
    "large": (1024, 24, 16, (5, 12, 18, 24), (256, 512, 1024, 1024), 256),
}


class DepthAnything(nn.Module):
    """The network in eval mode for good, without gradients.

    It works on sides that are multiples of 14, its patch size, the nearest to the image's own, or those with the short
    side `side` where that is given (its authors use 518); its map is resized to the image's size, as they do.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: DepthAnythingForDepthEstimation,
        source: WeightSource,
        side: int | None = None,
        attention_backend: str = "sdpa",
        execution: Execution | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.source = source
        self.name = source.network
        self.side = side
        self.attention = attention_backend
        self._attention = backend(attention_backend)
        self.execution = execution or Execution()
        self._run = self.execution.prepare(self._predict)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def settings(self) -> dict[str, str | bool | int | None]:
        """What shapes the maps besides the weights."""
        return {"side": self.side, "attention": self.attention} | self.execution.to_dict()

    def train(self, mode: bool = True) -> DepthAnything:
        """Frozen means frozen: stays in eval mode."""
        return super().train(False)

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Nothing that a person should know before images of this size go in."""
        return ()

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Relative inverse depth q ≥ 0 of RGB in [0, 1], at the images' size."""
        return torch.cat([self._estimate(piece) for (piece,) in self.execution.batches(images)])

    def _estimate(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        size = working_size((height, width), PATCH_SIZE, self.side)
        if size != (height, width):
            images = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        with self._attention(), self.execution.autocast(images.device):
            q = self._run((images - self.mean) / self.std)
        return F.interpolate(q.float()[:, None], size=(height, width), mode="bilinear", align_corners=True)[:, 0]

    def _predict(self, normalized: Tensor) -> Tensor:
        predicted: Tensor = self.network(pixel_values=normalized).predicted_depth
        return predicted


def working_size(size: tuple[int, int], patch: int, side: int | None) -> tuple[int, int]:
    """The nearest multiples of the patch, at least one, of a size (y, x) whose short side becomes `side` if given."""
    scale = side / min(size) if side else 1.0
    return (max(1, round(size[0] * scale / patch)) * patch, max(1, round(size[1] * scale / patch)) * patch)


def read(folder: Path, option: str) -> DepthAnythingForDepthEstimation:
    """The network of a folder as transformers saves it: config.json and model.safetensors, all of it and no more."""
    try:
        network, loading = _from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise LilaError(
            f"expected Depth Anything V2 in {folder} (config.json and model.safetensors, as transformers saves it), "
            f"but it cannot be read ({reason}); give another folder with {option}"
        ) from error
    _check(network, loading, folder, option)
    return network


def _from_pretrained(folder: Path) -> tuple[DepthAnythingForDepthEstimation, dict[str, Any]]:
    """transformers draws a bar of its own while it loads; ours are enough."""
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded: Any = DepthAnythingForDepthEstimation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        return loaded
    finally:
        if bars:
            logging.enable_progress_bar()


def _check(network: DepthAnythingForDepthEstimation, loading: dict[str, Any], folder: Path, option: str) -> None:
    missing, unexpected = sorted(loading["missing_keys"]), sorted(loading["unexpected_keys"])
    if missing or unexpected:
        raise LilaError(
            f"expected all tensors of Depth Anything V2 in {folder}, found {len(missing)} missing "
            f"({', '.join(missing[:3])}) and {len(unexpected)} unexpected ({', '.join(unexpected[:3])}); "
            f"give another folder with {option}"
        )
    kind, patch = network.config.depth_estimation_type, network.config.patch_size
    if (kind, patch) != ("relative", PATCH_SIZE):
        raise LilaError(
            f"expected a network of relative inverse depth on patches of {PATCH_SIZE} px in {folder}, found one of "
            f"{kind} depth on {patch} px; give another folder with {option}"
        )


def build(size: str) -> DepthAnythingForDepthEstimation:
    """Untrained: "small", "base" or "large"."""
    width, blocks, heads, taps, reassemble, fusion = _SHAPES[size]
    backbone = Dinov2Config(  # type: ignore[call-arg]  # it takes out_features apart
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        image_size=518,
        patch_size=PATCH_SIZE,
        out_features=[f"stage{tap}" for tap in taps],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=width,
        neck_hidden_sizes=list(reassemble),
        fusion_hidden_size=fusion,
    )
    return DepthAnythingForDepthEstimation(config)
