"""Dense inverse search (Kroeger et al., ECCV 2016) by OpenCV: flow on the CPU without weights.

RAFT: recurrent all-pairs field transforms for optical flow (Teed and Deng, ECCV 2020), by torchvision's modules.
"""

from __future__ import annotations

import math
from functools import partial

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.optical_flow import RAFT

from lila_cues.networks.execution import Execution, usual_batch
from lila_cues.networks.weights import WeightSource
from stores.errors import LilaError

NAME = "dis"
DIS_SMALLEST = 16  # px: below, no patch of the search fits


class DisFlow:
    """OpenCV's medium preset, searched down to the full resolution, which matters on grids as small as ours."""

    name = NAME

    def __init__(self) -> None:
        self.source = WeightSource(NAME, "code", "opencv", cv2.__version__, None, "apache-2.0")
        self.settings: dict[str, str | bool | int | None] = {"preset": "medium", "finest_scale": 0}

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Nothing that a person should know before."""
        return ()

    def __call__(self, first: Float[Tensor, "b 3 H W"], second: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 2 H W"]:
        """Flow in px from the first to the second image, RGB in [0, 1]; channel 0 to the right, 1 downwards."""
        return self.between(torch.cat([first, second]), torch.arange(2 * len(first)).view(2, -1).T)

    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        """Flow from image `pairs[:, 0]` to image `pairs[:, 1]`."""
        if min(images.shape[-2:]) < DIS_SMALLEST:
            raise LilaError(
                f"expected images of at least {DIS_SMALLEST}×{DIS_SMALLEST} px for {NAME}, "
                f"found {images.shape[-2]}×{images.shape[-1]}; choose a larger cue grid"
            )
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setFinestScale(0)
        gray = _grey(images)
        flows = [search.calc(gray[one], gray[other], None) for one, other in pairs.tolist()]  # type: ignore[call-overload]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(images.device)


def _grey(images: Tensor) -> list[np.ndarray]:
    pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in pixels]


STRIDE = 8  # of the feature maps, hence of the sides of what goes in
RAFT_SMALLEST = 128  # px: below, the correlation pyramid has no fourth level (NaN, or an error in torchvision)


class RaftFlow(nn.Module):
    """RAFT in eval mode for good, without gradients.

    Images go in scaled to [−1, 1] and padded by replication to multiples of 8. A side under 128 px is enlarged
    together with the other one, and the flow scaled back; or refused, where `enlarge` is False.
    """

    def __init__(
        self,
        network: RAFT,
        source: WeightSource,
        updates: int,
        enlarge: bool = True,
        execution: Execution | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.source = source
        self.name = source.network
        self.updates = updates
        self.enlarge = enlarge
        self.execution = execution or Execution()
        self._features = self.execution.prepare(network.feature_encoder.forward)
        self._context = self.execution.prepare(network.context_encoder.forward)
        self._run = self.execution.prepare(self._refine)
        self.requires_grad_(False)
        self.eval()

    @property
    def settings(self) -> dict[str, str | bool | int | None]:
        """What shapes the flow besides the weights."""
        return {"updates": self.updates, "small_images": "enlarged" if self.enlarge else "refused"} | (
            self.execution.to_dict()
        )

    def train(self, mode: bool = True) -> RaftFlow:
        """Frozen means frozen: stays in eval mode, where its batch norms use what they were trained with."""
        return super().train(False)

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """What a person should know before images of this size (y, x) go in."""
        working = self.working_size(size)
        if working == size:
            return ()
        return (
            f"{self.name} needs sides of {RAFT_SMALLEST} px: images of {size[0]}×{size[1]} are enlarged to "
            f"{working[0]}×{working[1]} for it, and the flow is scaled back",
        )

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size (y, x) at which flow is estimated, before padding."""
        scale = RAFT_SMALLEST / min(size)
        if scale <= 1:
            return size
        if not self.enlarge:
            raise LilaError(
                f"expected images of at least {RAFT_SMALLEST}×{RAFT_SMALLEST} px for {self.name}, found "
                f"{size[0]}×{size[1]}; choose a larger cue grid, let them be enlarged, or use --flow dis"
            )
        return (math.ceil(size[0] * scale), math.ceil(size[1] * scale))

    def forward(self, first: Float[Tensor, "b 3 H W"], second: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 2 H W"]:
        """Flow in px from the first to the second image, RGB in [0, 1]; channel 0 to the right, 1 downwards."""
        return self.between(torch.cat([first, second]), torch.arange(2 * len(first)).view(2, -1).T)

    @torch.no_grad()
    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        """Flow from image `pairs[:, 0]` to image `pairs[:, 1]`; the features of an image are computed once."""
        height, width = images.shape[-2:]
        working = self.working_size((height, width))
        resized = F.interpolate(images.float(), size=working, mode="bilinear", align_corners=False)
        flow = self._flow(_padded(resized * 2 - 1), pairs.cpu())
        top, left = -working[0] % STRIDE // 2, -working[1] % STRIDE // 2
        flow = flow[..., top : top + working[0], left : left + working[1]]
        flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
        return flow * flow.new_tensor([width / working[1], height / working[0]]).view(1, 2, 1, 1)

    def _flow(self, images: Tensor, pairs: Tensor) -> Tensor:
        starts, own = torch.unique(pairs[:, 0], return_inverse=True)
        starts, own, pairs = (positions.to(images.device) for positions in (starts, own, pairs))
        batches = partial(self.execution.batches, usual=usual_batch(images.device))
        with self.execution.autocast(images.device):
            features = torch.cat([self._features(piece) for (piece,) in batches(images)])
            context = torch.cat([self._context(piece) for (piece,) in batches(images[starts])])
            flows = [
                self._run(features[one], features[other], context[start])
                for one, other, start in batches(pairs[:, 0], pairs[:, 1], own)
            ]
        return torch.cat(flows)

    def _refine(self, first: Tensor, second: Tensor, context: Tensor) -> Tensor:
        """Flow from features to features, figure 1 of the paper; only the last update is brought to full resolution."""
        model = self.network
        model.corr_block.build_pyramid(first, second)
        channels = model.update_block.hidden_state_size
        hidden, context = torch.tanh(context[:, :channels]), F.relu(context[:, channels:])
        start = _coordinates(first)
        end = start
        for _ in range(self.updates):
            correlation = model.corr_block.index_pyramid(centroids_coords=end)
            hidden, step = model.update_block(hidden, context, correlation, end - start)
            end = end + step
        model.corr_block.corr_pyramid = []
        return self._upsampled((end - start).float(), hidden)

    def _upsampled(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """To full resolution: bilinearly, or by RAFT's learned convex combination of the 3×3 neighbours."""
        if self.network.mask_predictor is None:
            return STRIDE * F.interpolate(flow, scale_factor=STRIDE, mode="bilinear", align_corners=True)
        height, width = flow.shape[-2:]
        mask = self.network.mask_predictor(hidden).float().view(-1, 1, 9, STRIDE**2, height, width).softmax(dim=2)
        near = F.unfold(STRIDE * flow, 3, padding=1).view(-1, 2, 9, 1, height, width)
        return F.pixel_shuffle((mask * near).sum(dim=2).flatten(1, 2), STRIDE)


def _padded(images: Tensor) -> Tensor:
    """Replicated to multiples of 8 on both sides, evenly but for the last pixel."""
    down, across = -images.shape[-2] % STRIDE, -images.shape[-1] % STRIDE
    sides = (across // 2, across - across // 2, down // 2, down - down // 2)
    return F.pad(images, sides, mode="replicate")


def _coordinates(maps: Tensor) -> Tensor:
    """x, y of every cell, float32, B×2×h×w."""
    height, width = maps.shape[-2:]
    rows = torch.arange(height, device=maps.device, dtype=torch.float32)
    columns = torch.arange(width, device=maps.device, dtype=torch.float32)
    grid = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)])
    return grid.expand(len(maps), -1, -1, -1)
