"""Flow networks by name.

RAFT: recurrent all-pairs field transforms (Teed and Deng, ECCV 2020), of torchvision's modules. Dense inverse search
(Kroeger et al., ECCV 2016) by OpenCV: on the CPU, no weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models import optical_flow

from lila_cues import devices
from lila_cues.networks import registry, state_dicts
from lila_cues.networks.frozen import Execution, FlowNetwork, Settings, default_batch
from lila_cues.networks.weights import WeightSource, load_network
from stores.errors import LilaError

OPTION = "--flow-weights"
STRIDE = 8  # of the feature maps, hence of the sides of the input
RAFT_SMALLEST = 128  # px: below, the correlation pyramid has no fourth level (NaN, or an error in torchvision)
DIS_SMALLEST = 16  # px: below, no patch of the search fits


def load_flow(
    name: str,
    weights: Path | str | None = None,
    device: torch.device | str = "cpu",
    updates: int | None = None,
    execution: Execution | None = None,
) -> FlowNetwork:
    """Load a frozen flow network.

    Args:
        name: "dis" (OpenCV, no weights), "raft_small" or "raft_large".
        weights: a local file in torchvision's or the original naming, "random:SEED" for untrained ones, or None for
            torchvision's own.
        updates: recurrent updates of RAFT; 12 if None.

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
        lambda: getattr(optical_flow, name)(weights=None), entry, weights, OPTION,
        rename=lambda tensors, network: state_dicts.to_torchvision(tensors),
    )  # fmt: skip
    return RaftFlow(network, source, updates or 12, execution).to(device)


class RaftFlow(FlowNetwork):
    """RAFT, frozen.

    Images are scaled to [−1, 1] and padded by replication to multiples of 8. An image with a side under 128 px is
    enlarged, aspect kept, and its flow scaled back.
    """

    window: Tensor

    def __init__(
        self, network: optical_flow.RAFT, source: WeightSource, updates: int, execution: Execution | None = None
    ) -> None:
        super().__init__(source, execution)
        self.network = network
        self.updates = updates
        offsets = torch.arange(-network.corr_block.radius, network.corr_block.radius + 1).float()
        window = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)
        self.register_buffer("window", window, persistent=False)  # n×n offsets in x, y
        self._features = self.execution.prepare(network.feature_encoder.forward)
        self._context = self.execution.prepare(network.context_encoder.forward)
        self._run = self.execution.prepare(self._refine)
        self.requires_grad_(False).eval()

    @property
    def settings(self) -> Settings:
        return {"updates": self.updates, **super().settings}

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        working = self.working_size(size)
        if working == size:
            return ()
        return (
            f"{self.name} needs sides of {RAFT_SMALLEST} px: images of {size[0]}×{size[1]} are enlarged to "
            f"{working[0]}×{working[1]} for it, and the flow is scaled back",
        )

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (y, x) at which flow is estimated, before padding."""
        scale = max(1.0, RAFT_SMALLEST / min(size))
        return math.ceil(size[0] * scale), math.ceil(size[1] * scale)

    @torch.no_grad()
    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        size = height, width = images.shape[-2:]
        working = self.working_size((height, width))
        resized = F.interpolate(images.float(), size=working, mode="bilinear", align_corners=False)
        down, across = -working[0] % STRIDE, -working[1] % STRIDE
        top, left = down // 2, across // 2
        padded = F.pad(resized * 2 - 1, (left, across - left, top, down - top), mode="replicate")
        pairs = devices.upload(pairs, images.device)
        batch = default_batch(images.device) or max(1, len(images), len(pairs))
        with self.execution.autocast(images.device):
            features = torch.cat([self._features(piece) for piece in padded.split(batch)])
            context = torch.cat([self._context(piece) for piece in padded.split(batch)])
            flows = [
                self._run(features[one], features[other], context[one])
                for one, other in (part.unbind(1) for part in pairs.split(batch))
            ]
        flow = torch.cat(flows)[..., top : top + working[0], left : left + working[1]]
        flow = F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
        return torch.stack([flow[:, 0] * (width / working[1]), flow[:, 1] * (height / working[0])], dim=1)

    def _refine(self, first: Tensor, second: Tensor, context: Tensor) -> Tensor:
        """Return flow between feature maps (figure 1 of the paper); only the last update is upsampled.

        That is done bilinearly, or by RAFT's learned convex combination of the 3×3 neighbors.
        """
        model = self.network
        pyramid = correlation_pyramid(first, second, model.corr_block.num_levels)
        channels = model.update_block.hidden_state_size
        hidden, context = torch.tanh(context[:, :channels]), F.relu(context[:, channels:])
        grid = torch.meshgrid(*(torch.arange(n, device=first.device) for n in first.shape[-2:]), indexing="ij")
        start = end = torch.stack(grid[::-1]).float().expand(len(first), -1, -1, -1)  # x, y of every cell
        for _ in range(self.updates):
            correlation = look_up(pyramid, end, self.window)
            hidden, step = model.update_block(hidden, context, correlation, end - start)
            end = end + step
        flow = (end - start).float()
        if model.mask_predictor is None:
            return STRIDE * F.interpolate(flow, scale_factor=STRIDE, mode="bilinear", align_corners=True)
        height, width = flow.shape[-2:]
        mask = model.mask_predictor(hidden).float().view(-1, 1, 9, STRIDE**2, height, width).softmax(dim=2)
        near = F.unfold(STRIDE * flow, 3, padding=1).view(-1, 2, 9, 1, height, width)
        return F.pixel_shuffle((mask * near).sum(dim=2).flatten(1, 2), STRIDE)


def correlation_pyramid(
    first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"], levels: int
) -> list[Float[Tensor, "n 1 y x"]]:
    """Return the correlation of each of the b·h·w cells of one map with all cells of the other, halved per level."""
    batch, channels, height, width = first.shape
    products = first.flatten(2).mT @ second.flatten(2) / math.sqrt(channels)
    pyramid = [products.view(batch * height * width, 1, height, width)]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def look_up(
    pyramid: Sequence[Tensor], centers: Float[Tensor, "b 2 h w"], window: Float[Tensor, "n n 2"]
) -> Float[Tensor, "b k h w"]:
    """Return the correlations in a window around each cell's x, y in the other map, bilinearly; 0 outside.

    As torchvision's `CorrBlock`, which builds the window on the CPU in every update, so that a GPU waits.
    """
    batch, _, height, width = centers.shape
    places = centers.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for level in pyramid:
        grid = places + window
        x, y = (2 * grid[..., axis] / (level.shape[-1 - axis] - 1) - 1 for axis in (0, 1))
        found.append(
            F.grid_sample(level, torch.stack((x, y), dim=-1), align_corners=True).view(batch, height, width, -1)
        )
        places = places / 2
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2).contiguous()


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
