"""Relative inverse depth by name: what a depth network is to the rest of stage one, and how one is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lila_cues.networks import catalog, hub, tiny
from lila_cues.networks.execution import Execution
from lila_cues.networks.tiny_depth import TinyDepth
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

if TYPE_CHECKING:
    from transformers import DepthAnythingForDepthEstimation

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
    if name not in catalog.names(catalog.DEPTH):
        raise LilaError(
            f"expected a depth network among {', '.join(catalog.names(catalog.DEPTH))}, or files:DIR for maps of your "
            f"own, found {name}; pass one with --depth"
        )
    if name == TINY:
        return _tiny(weights, execution, sha256).to(device)
    from lila_cues.networks.depth_anything import DepthAnything  # transformers takes seconds to import

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
    from lila_cues.networks import depth_anything

    known = catalog.entry(catalog.DEPTH, name)
    assert known is not None
    seed = random_seed(weights)
    if seed is not None:
        with drawn(seed):
            network = depth_anything.build(name.removeprefix(_DEPTH_ANYTHING))
        return network, untrained(name, network, seed, OPTION, sha256)
    if weights is not None:
        file, source = local_file(name, Path(weights) / depth_anything.WEIGHTS, known.licence, OPTION, sha256)
        source = replace(source, location=str(file.parent))
    else:
        _, commit = hub.fetch(known.place, depth_anything.CONFIGURATION, revision, OPTION)
        file, _ = hub.fetch(known.place, depth_anything.WEIGHTS, commit, OPTION)
        source = recorded(WeightSource(name, "hub", known.place, commit, None, known.licence), file, OPTION, sha256)
    return depth_anything.read(file.parent, OPTION), source
