"""Video object segmentation by local k-NN label propagation: `davis-knn@lila`, and `davis-knn@dino` at two sizes.

Settings are those of the LILA reference's launch scripts and of DINO's `eval_video_segmentation.py`; the engine is
`lila_train.model.propagation` (docs/protocols.md, "DAVIS").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.task import Frames, MaskTask, open_davis
from lila_train.evaluation.models import GridModel, feature_map
from lila_train.model.propagation import Propagation, Sizes
from lila_train.model.resize import Labels, Size, size_of, to_size

KNN_SETTINGS = {"short_side": "short_side_px", **{n: n for n in ("topk", "temperature", "window", "context_frames")}}
"""Fields of EvalConfig that change a k-NN protocol, and those of Propagation that they replace."""


@dataclass(frozen=True)
class DinoPropagation(Propagation):
    """DINO's variant: native encoder grid, cut border, ties kept, each label channel stretched before the argmax."""

    short_side_px: int | None = 480
    long_side_multiple_px: int | None = 64
    antialias: bool = True
    grid_short_side: int | None = None
    border: str = "cut"

    def vote(self, similarities: Float[Tensor, "n m k"], labels: Float[Tensor, "n k c"]) -> Float[Tensor, "n m c"]:
        """Average all keys as similar as the `topk`-th or more, ties included, by exp(similarity/temperature)."""
        last = similarities.topk(min(self.topk, similarities.shape[-1]), dim=-1).values[..., -1:]
        weights = torch.exp(similarities / self.temperature).masked_fill(similarities < last, 0.0)
        return (weights / weights.sum(dim=-1, keepdim=True)) @ labels

    def resize_reference(self, one_hot: Float[Tensor, "c H W"], grid: Size) -> Float[Tensor, "c h w"]:
        """Bring the first frame's labels to the grid: nearest."""
        return F.interpolate(one_hot[None], grid, mode="nearest-exact")[0]

    def hard_labels(self, soft: Float[Tensor, "c h w"], sizes: Sizes) -> Int[Tensor, "H W"]:
        """Return an object id per native pixel; each channel is first stretched to [0, 1] over the frame."""
        maps = to_size(soft[None], sizes.frame)[0]
        maps = maps - maps.amin(dim=(1, 2), keepdim=True)
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        ids = maps.argmax(dim=0)[None, None].float()
        return F.interpolate(ids, sizes.native, mode="nearest-exact")[0, 0].long()


@dataclass(frozen=True)
class KnnTask(MaskTask):
    """A k-NN protocol on DAVIS. `memory` bounds temporary tensors (bytes) and changes no score."""

    rule: Propagation
    memory: int | None = None

    def segment(self, model: GridModel, head: str, name: str, frames: Frames, first: Labels) -> Iterator[Labels]:
        sizes = self.rule.sizes(size_of(first), model.patch_size)
        unit_features, maps = self.rule.unit_features, feature_map(model, head)
        features_of = partial(unit_features, feature_map=maps, sizes=sizes, device=model.device)
        return self.rule.follow(frames, first, features_of, sizes, self.memory)

    def derived(self, model: GridModel) -> dict[str, Any]:
        """Return the sizes of the first sequence, and the radius of the window."""
        sizes = self.rule.sizes(self.data.native_size(), model.patch_size)
        return super().derived(model) | {
            "grid_cells": list(sizes.grid),
            "radius_cells": self.rule.window // 2,
            "radius_native_px": round(sizes.radius_px(self.rule.window), 1),
        }


def knn_task(protocol: str, propagation: Propagation, data: Path, config: EvalConfig) -> KnnTask:
    """Open a DAVIS folder for a k-NN protocol."""
    opened = open_davis(data, config.limit, config.year)
    propagation, config = config.applied_to(propagation, KNN_SETTINGS)
    return KnnTask(protocol, opened, config.replace(year=opened.year), propagation)
