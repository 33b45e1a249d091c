"""Temporal stability of features on DAVIS: `davis-stability` (docs/protocols.md, "Temporal stability").

How much more alike features are at corresponding pixels of neighboring frames than at random ones. Correspondence is
the optical flow of a frozen network, where forward and backward flow agree (Sundaram et al., ECCV 2010).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_cues.images import read_stored
from lila_cues.networks import load_flow
from lila_cues.networks.frozen import FlowNetwork
from lila_cues.networks.weights import file_sha256
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.task import DavisTask, FrameSettings, open_davis
from lila_train.evaluation.dense.data import generator
from lila_train.evaluation.dense.metrics import MeanSums
from lila_train.evaluation.models import GridModel, feature_map
from lila_train.model.resize import as_input, sample_at, size_of
from lila_train.outputs import Json
from stores.errors import LilaError

METRICS = ("stability", "stability_cells", "cosine_corresponding", "cosine_random")
Places = Float[Tensor, "n 2"]  # x, y in [0, 1] over a frame's sides


@dataclass(frozen=True)
class StabilitySettings(FrameSettings):
    """Flow is computed at the size of the frames, from points drawn by the seed."""

    points_per_pair: int = 2048  # of a pair of neighboring frames, before those without correspondence are left out
    flow: str = "raft_small"


@dataclass(frozen=True)
class StabilityTask(DavisTask):
    """One part per sequence, a step per frame. Correspondences are kept in memory for the next head."""

    rule: StabilitySettings
    _pairs: dict[tuple[str, int], list[tuple[Places, Places, Places]]] = field(default_factory=dict, compare=False)

    @property
    def settings(self) -> dict[str, Any]:
        weights = self.config.flow_weights
        return super().settings | ({"flow_weights_sha256": file_sha256(weights)} if weights else {})

    @cached_property
    def flow(self) -> FlowNetwork:
        """The flow network, loaded once for all parts."""
        return load_flow(self.rule.flow, self.config.flow_weights)

    def parts(self) -> dict[str, int]:
        """Return the number of frames, by sequence."""
        return {name: len(sequence.frames) for name, sequence in self.data.sequences.items()}

    def counts(self) -> dict[str, int]:
        return {"sequences": len(self.data.sequences), "frames": sum(self.parts().values())}

    @torch.no_grad()
    def run(self, model: GridModel, head: str, part: str, folder: Path, advance: Callable[[], None]) -> Json:
        paths, sums, before = self.data.sequences[part].frames, MeanSums(), None
        known, pairs = self._pairs.get((part, model.patch_size)), list[tuple[Places, Places, Places]]()
        for t, path in enumerate(paths):
            frame = read_stored(path)
            size = self.rule.frame_size(size_of(frame[..., 0]), model.patch_size)
            image = as_input(frame, size, model.device, self.rule.antialias)
            features = feature_map(model, head)(image)[0]
            if before is not None:
                pairs.append(known[t - 1] if known else self._correspondences(part, t, before[0], image))
                sums += pair_cosines(before[1], features, *pairs[-1])
            before = image, features
            advance()
        self._pairs[part, model.patch_size] = pairs
        share = sum(len(points) for points, _, _ in pairs) / (len(pairs) * self.rule.points_per_pair)
        return {"frames": len(paths), "corresponding": share, "means": sums.metrics()}

    def metrics(self, records: Iterable[Json]) -> dict[str, float | None]:
        """Return the means over sequences of the means over pairs of frames."""
        sums = reduce(add, (MeanSums.of(record["means"]) for record in records), MeanSums())
        return {name: sums.mean(name) for name in METRICS}

    def _correspondences(self, name: str, t: int, one: Tensor, other: Tensor) -> tuple[Places, Places, Places]:
        """Return points of frame t − 1 that have a correspondence, those in frame t, and as many random ones in it."""
        rng = generator(self.rule.seed, zlib.crc32(name.encode()), t)
        drawn = torch.from_numpy(rng.random((2, self.rule.points_per_pair, 2))).to(one)
        flow = self.flow.to(one.device).between(torch.cat([one, other]), torch.tensor([[0, 1], [1, 0]]))
        ends, agree = follow(drawn[0], flow[0], flow[1])
        return drawn[0][agree], ends[agree], drawn[1][agree]


def stability_task(data: Path, config: EvalConfig) -> StabilityTask:
    """Open a DAVIS folder for `davis-stability`; LilaError for weights of the flow network that are not there."""
    opened, weights = open_davis(data, config.limit, config.year), config.flow_weights
    rule, config = config.applied_to(StabilitySettings(config.seed), {"short_side": "short_side_px", "flow": "flow"})
    if weights is not None and (rule.flow == "dis" or not weights.is_file()):
        found = "one, but it has none" if rule.flow == "dis" else f"none at {weights}"
        raise LilaError(f"expected a weight file for {rule.flow}, found {found}; correct --set flow_weights or drop it")
    return StabilityTask("davis-stability", opened, config.replace(year=opened.year), rule)


def follow(
    points: Places, forward_px: Float[Tensor, "2 h w"], backward_px: Float[Tensor, "2 h w"]
) -> tuple[Places, Tensor]:
    """Return where points go by the flow between two frames, and whether the way back returns to each.

    It does where |f + b|² < 0.01·(|f|² + |b|²) + 0.5, in pixels, and the end lies within the frame.
    """
    there = sample_at(forward_px, points)
    height, width = size_of(forward_px)
    ends = points + there / there.new_tensor([width, height])
    back = sample_at(backward_px, ends)
    squares = there.square().sum(dim=1) + back.square().sum(dim=1)
    agree = (there + back).square().sum(dim=1) < 0.01 * squares + 0.5
    return ends, agree & ((ends >= 0) & (ends <= 1)).all(dim=1)


def pair_cosines(
    one: Float[Tensor, "d h w"], other: Float[Tensor, "d h w"], points: Places, ends: Places, random: Places
) -> MeanSums:
    """Return the mean cosines of a pair of frames; nothing where no point has a correspondence.

    Features are sampled bilinearly: an encoder's grid is upsampled. `stability_cells` takes the cell around each point.
    """
    if not len(points):
        return MeanSums()
    same, chance = {}, {}
    for nearest in (False, True):
        start = sample_at(one, points, nearest)
        same[nearest], chance[nearest] = (
            F.cosine_similarity(start, sample_at(other, to, nearest), dim=1).double().mean().item()
            for to in (ends, random)
        )
    values = same[False] - chance[False], same[True] - chance[True], same[False], chance[False]
    return MeanSums.of(dict(zip(METRICS, values, strict=True)))
