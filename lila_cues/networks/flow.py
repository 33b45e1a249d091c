"""Flow networks by name, and dense inverse search (Kroeger et al., ECCV 2016) by OpenCV: on the CPU, no weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models import optical_flow

from lila_cues.networks import registry, state_dicts
from lila_cues.networks.execution import Execution
from lila_cues.networks.frozen import FlowNetwork, Settings
from lila_cues.networks.raft import RaftFlow
from lila_cues.networks.weights import WeightSource, load_network
from stores.errors import LilaError

OPTION = "--flow-weights"
UPDATES = 12
DIS_SMALLEST = 16  # px: below, no patch of the search fits


def load_flow(
    name: str,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    updates: int | None = None,
    enlarge: bool = True,
    execution: Execution | None = None,
    sha256: str | None = None,
) -> FlowNetwork:
    """Load a frozen flow network.

    Args:
        name: "dis" (OpenCV, no weights), "raft_small" or "raft_large".
        weights: a local file in torchvision's or the original naming, "random:SEED" for untrained ones, or None for
            torchvision's own.
        updates: recurrent updates of RAFT; 12 if None.
        enlarge: whether RAFT enlarges images under 128 px, which it refuses otherwise.

    The other arguments and the errors are those of `load_encoder`.
    """
    entry = registry.entry(registry.FLOW, name)
    if entry is None:
        raise LilaError(
            f"expected a flow network among {', '.join(registry.names(registry.FLOW))}, found {name}; "
            "pass one with --flow"
        )
    if not entry.architecture:
        if weights is not None or updates is not None:
            raise LilaError("expected neither weights nor updates for --flow dis, which has none; leave them out")
        return DisFlow()
    if updates is not None and updates < 1:
        raise LilaError(f"expected at least one update of RAFT, found {updates}; pass more with --flow-updates")
    network, source = load_network(
        lambda: getattr(optical_flow, name)(weights=None), entry, weights, OPTION, sha256=sha256,
        rename=lambda tensors, network: state_dicts.to_torchvision(tensors),
    )  # fmt: skip
    return RaftFlow(network, source, updates or UPDATES, enlarge, execution).to(device)


class DisFlow(FlowNetwork):
    """OpenCV's medium preset, searched down to the full resolution, which matters on grids as small as ours."""

    def __init__(self) -> None:
        import cv2

        super().__init__(WeightSource("dis", "code", "opencv", cv2.__version__, None, "apache-2.0"))

    @property
    def settings(self) -> Settings:
        return {"preset": "medium", "finest_scale": 0}

    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        import cv2

        if min(images.shape[-2:]) < DIS_SMALLEST:
            raise LilaError(
                f"expected images of at least {DIS_SMALLEST}×{DIS_SMALLEST} px for {self.name}, "
                f"found {images.shape[-2]}×{images.shape[-1]}; choose a larger cue grid"
            )
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setFinestScale(0)
        pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        gray = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in pixels]
        flows = [search.calc(gray[one], gray[other], None) for one, other in pairs.tolist()]  # type: ignore[call-overload]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(images.device)
