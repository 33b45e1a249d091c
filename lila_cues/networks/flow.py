"""Optical flow by name: what a flow network is to the rest of stage one, and how one is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models import optical_flow

from lila_cues.networks import hub, raft, registry, state_dicts
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

OPTION = "--flow-weights"
UPDATES = 12
_BUILDERS = {"raft_small": optical_flow.raft_small, "raft_large": optical_flow.raft_large}
NAMES = (raft.NAME, *_BUILDERS)


@runtime_checkable
class FlowNetwork(Protocol):
    """Flow between images, frozen. A new one is one small file and a line in `load_flow`."""

    @property
    def name(self) -> str:
        """The name by which `load_flow` gives it again."""
        ...

    @property
    def source(self) -> WeightSource:
        """Where its weights are from; for a store's provenance."""
        ...

    @property
    def settings(self) -> dict[str, str | bool | int | None]:
        """What shapes the flow besides the weights; for a store's provenance."""
        ...

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Sentences to show before images of this size (y, x) go in."""
        ...

    def __call__(self, first: Float[Tensor, "b 3 H W"], second: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 2 H W"]:
        """Flow in px from the first to the second image, RGB in [0, 1]; channel 0 to the right, 1 downwards."""
        ...

    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        """Flow from image `pairs[:, 0]` to image `pairs[:, 1]`; what is known of an image is computed once."""
        ...


def load_flow(
    name: str,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    updates: int | None = None,
    enlarge: bool = True,
    execution: Execution | None = None,
    sha256: str | None = None,
) -> FlowNetwork:
    """A flow network: "dis" (OpenCV, no weights), "raft_small" or "raft_large".

    `weights`: a local file in torchvision's or the original naming, "random:SEED", or None for torchvision's own.
    `updates` of RAFT: 12 if None. `enlarge`: whether images under 128 px are enlarged for RAFT, or refused.
    """
    if name not in NAMES:
        raise LilaError(f"expected a flow network among {', '.join(NAMES)}, found {name}; pass one with --flow")
    if name == raft.NAME:
        if weights is not None or updates is not None:
            raise LilaError("expected neither weights nor updates for --flow dis, which has none; leave them out")
        return raft.DisFlow()
    if updates is not None and updates < 1:
        raise LilaError(f"expected at least one update of RAFT, found {updates}; pass more with --flow-updates")
    network, source = _raft(name, weights, sha256)
    return raft.RaftFlow(network, source, updates or UPDATES, enlarge, execution).to(device)


def _raft(name: str, weights: Path | str | None, sha256: str | None) -> tuple[optical_flow.RAFT, WeightSource]:
    seed = random_seed(weights)
    with drawn(seed):
        network = _BUILDERS[name](weights=None)
    if seed is not None:
        return network, untrained(name, network, seed, OPTION, sha256)
    known = registry.entry(registry.FLOW, name)
    assert known is not None
    if weights is None:
        path, revision = hub.fetch_url(known.place, OPTION)
        source = WeightSource(name, "hub", known.place, revision, None, known.licence)
        source = recorded(source, path, OPTION, sha256)
    else:
        path, source = local_file(name, weights, NOT_STATED, OPTION, sha256)
    load_strictly(network, state_dicts.to_torchvision(read_tensors(path, OPTION)), str(path), OPTION)
    return network, source
