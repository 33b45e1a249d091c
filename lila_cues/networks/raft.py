"""RAFT: recurrent all-pairs field transforms for optical flow (Teed and Deng, ECCV 2020), of torchvision's modules."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.models.optical_flow import RAFT

from lila_cues.networks.execution import Execution, default_batch
from lila_cues.networks.frozen import FlowNetwork, Settings
from lila_cues.networks.weights import WeightSource
from stores.errors import LilaError

STRIDE = 8  # of the feature maps, hence of the sides of the input
SMALLEST = 128  # px: below, the correlation pyramid has no fourth level (NaN, or an error in torchvision)


class RaftFlow(FlowNetwork):
    """RAFT, frozen.

    Images are scaled to [−1, 1] and padded by replication to multiples of 8. An image with a side under 128 px is
    enlarged, aspect kept, and its flow scaled back; or refused, where `enlarge` is False.
    """

    def __init__(
        self,
        network: RAFT,
        source: WeightSource,
        updates: int,
        enlarge: bool = True,
        execution: Execution | None = None,
    ) -> None:
        super().__init__(source, execution)
        self.network = network
        self.updates = updates
        self.enlarge = enlarge
        self._features = self.execution.prepare(network.feature_encoder.forward)
        self._context = self.execution.prepare(network.context_encoder.forward)
        self._run = self.execution.prepare(self._refine)
        self.freeze()

    @property
    def settings(self) -> Settings:
        small_images = "enlarged" if self.enlarge else "refused"
        return {"updates": self.updates, "small_images": small_images, **super().settings}

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        working = self.working_size(size)
        if working == size:
            return ()
        return (
            f"{self.name} needs sides of {SMALLEST} px: images of {size[0]}×{size[1]} are enlarged to "
            f"{working[0]}×{working[1]} for it, and the flow is scaled back",
        )

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (y, x) at which flow is estimated, before padding; LilaError for a size that is refused."""
        scale = SMALLEST / min(size)
        if scale <= 1:
            return size
        if not self.enlarge:
            raise LilaError(
                f"expected images of at least {SMALLEST}×{SMALLEST} px for {self.name}, found "
                f"{size[0]}×{size[1]}; choose a larger cue grid, let them be enlarged, or use --flow dis"
            )
        return (math.ceil(size[0] * scale), math.ceil(size[1] * scale))

    @torch.no_grad()
    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        size = height, width = images.shape[-2:]
        working = self.working_size((height, width))
        resized = F.interpolate(images.float(), size=working, mode="bilinear", align_corners=False)
        down, across = -working[0] % STRIDE, -working[1] % STRIDE
        top, left = down // 2, across // 2
        padded = F.pad(resized * 2 - 1, (left, across - left, top, down - top), mode="replicate")
        flow = self._flow(padded, pairs.cpu())[..., top : top + working[0], left : left + working[1]]
        flow = F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
        return flow * flow.new_tensor([width / working[1], height / working[0]]).view(1, 2, 1, 1)

    def _flow(self, images: Tensor, pairs: Tensor) -> Tensor:
        starts, start_of = torch.unique(pairs[:, 0], return_inverse=True)
        starts, start_of, pairs = (indices.to(images.device) for indices in (starts, start_of, pairs))
        batches = partial(self.execution.batches, default=default_batch(images.device))
        with self.execution.autocast(images.device):
            features = torch.cat([self._features(piece) for (piece,) in batches(images)])
            context = torch.cat([self._context(piece) for (piece,) in batches(images[starts])])
            flows = [
                self._run(features[one], features[other], context[start])
                for one, other, start in batches(pairs[:, 0], pairs[:, 1], start_of)
            ]
        return torch.cat(flows)

    def _refine(self, first: Tensor, second: Tensor, context: Tensor) -> Tensor:
        """Return flow between feature maps (figure 1 of the paper); only the last update is upsampled."""
        model = self.network
        model.corr_block.build_pyramid(first, second)
        channels = model.update_block.hidden_state_size
        hidden, context = torch.tanh(context[:, :channels]), F.relu(context[:, channels:])
        grid = torch.meshgrid(*(torch.arange(n, device=first.device) for n in first.shape[-2:]), indexing="ij")
        start = end = torch.stack(grid[::-1]).float().expand(len(first), -1, -1, -1)  # x, y of every cell
        for _ in range(self.updates):
            correlation = model.corr_block.index_pyramid(centroids_coords=end)
            hidden, step = model.update_block(hidden, context, correlation, end - start)
            end = end + step
        model.corr_block.corr_pyramid = []
        return self._upsample((end - start).float(), hidden)

    def _upsample(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """Upsample to full resolution: bilinearly, or by RAFT's learned convex combination of the 3×3 neighbors."""
        if self.network.mask_predictor is None:
            return STRIDE * F.interpolate(flow, scale_factor=STRIDE, mode="bilinear", align_corners=True)
        height, width = flow.shape[-2:]
        mask = self.network.mask_predictor(hidden).float().view(-1, 1, 9, STRIDE**2, height, width).softmax(dim=2)
        near = F.unfold(STRIDE * flow, 3, padding=1).view(-1, 2, 9, 1, height, width)
        return F.pixel_shuffle((mask * near).sum(dim=2).flatten(1, 2), STRIDE)
