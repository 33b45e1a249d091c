"""The cues that features should tell (docs/method.md, "Cues"): each is told, weighed and drawn in one place.

A class here and its row in `CUES` are all that stage two needs of a new cue. A run tells those of
`ObjectiveConfig.cues`; their maps follow each other in the order of the table, in
which the encoder's features stay last, since distilled online
they join late.

From stored cues to what the features must explain: log depth, half-image flow, confidence, standardised maps.

docs/method.md, "Cues". Flow is in pixels of the cue grid on the way in, channel 0 to the right and channel 1 down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lila_cues.viz import pictures
from lila_cues.viz.pictures import CONFIDENCE_SCALE, MIN_CONFIDENCE, Picture
from lila_train.training.config import DEPTH, FEATURES, FLOW, NORMALS, ObjectiveConfig
from lila_train.training.distributed import all_reduce_sum

if TYPE_CHECKING:
    from lila_train.training.crops import Regions
    from lila_train.training.data import PairBatch


DEPTH_LIMIT = 0.9  # log depth from which on a pixel is too far to be believed


def log_depth(inverse_depth: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """D = ln(1 + 1/(s + 0.1))/ln 11 with s = 0.01 q: relative inverse depth q ≥ 0 to (0, 1], 1 = infinitely far."""
    return torch.log1p(1 / (0.01 * inverse_depth.clamp(min=0) + 0.1)) / math.log(11)


def half_image_units(flow_px: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 2 h w"]:
    """Flow in pixels to units of half the image: u·2/W, v·2/H."""
    h, w = flow_px.shape[-2:]
    return flow_px * flow_px.new_tensor((2 / w, 2 / h)).view(1, 2, 1, 1)


def warp(values: Float[Tensor, "b c h w"], flow_px: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """`values` read at p + flow(p), bilinear, the border repeated; any aspect ratio."""
    h, w = flow_px.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(h, device=flow_px.device, dtype=flow_px.dtype),
        torch.arange(w, device=flow_px.device, dtype=flow_px.dtype),
        indexing="ij",
    )
    at_x = (x + flow_px[:, 0] + 0.5) * (2 / w) - 1
    at_y = (y + flow_px[:, 1] + 0.5) * (2 / h) - 1
    grid = torch.stack((at_x, at_y), dim=-1)
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def consistent(flow_ab: Float[Tensor, "b 2 h w"], flow_ba: Float[Tensor, "b 2 h w"]) -> Bool[Tensor, "b 1 h w"]:
    """Where the flow a→b, followed by b→a, comes back: exp(−e/0.05) > ½ with e in half-image units. Flows in pixels."""
    error = half_image_units(flow_ab + warp(flow_ba, flow_ab)).norm(dim=1, keepdim=True)
    return torch.exp(-error / CONFIDENCE_SCALE) > MIN_CONFIDENCE


def valid_depth(log_depth: Float[Tensor, "b 1 h w"]) -> Bool[Tensor, "b 1 h w"]:
    """Where log depth is believed."""
    return log_depth < DEPTH_LIMIT


def standardize(first: Float[Tensor, "*s"], second: Float[Tensor, "*t"]) -> tuple[Tensor, Tensor]:
    """(x − mean)/(1e-3 + std) with one mean and one unbiased std over both tensors and, under DDP, over all ranks."""
    joined = torch.cat((first.flatten(), second.flatten())).double()
    sums = torch.stack((joined.new_tensor(joined.numel()), joined.sum(), joined.square().sum()))
    count, total, squares = all_reduce_sum(sums)
    mean = total / count
    std = ((squares - count * mean.square()) / (count - 1)).clamp(min=0).sqrt()
    scale = 1e-3 + std
    return tuple(((x - mean) / scale).to(x.dtype) for x in (first, second))


Maps = Float[np.ndarray, "c h w"]


@dataclass(frozen=True)
class CueTarget:
    """A cue of one view: its maps, which entries the loss counts, and the masks that weigh a cell of the solve.

    Where a cue joins late its maps are empty, and `valid` has the channels that they will have.
    """

    maps: Float[Tensor, "b c s s"]
    valid: Bool[Tensor, "b k s s"]
    confidence: Float[Tensor, "b m s s"] | Bool[Tensor, "b m s s"]


@runtime_checkable
class Cue(Protocol):
    """A map of the frame that a linear function of its features should tell."""

    name: str

    def arrays(self, method: ObjectiveConfig) -> tuple[str, ...]:
        """The store's arrays that it is told from."""
        ...

    def channels(self, method: ObjectiveConfig) -> int:
        """How many its map has."""
        ...

    def targets(self, batch: PairBatch, method: ObjectiveConfig) -> tuple[CueTarget, CueTarget]:
        """The cue of the context and of the query view, such that one linear map can read it off both.

        Mirroring a view moves pixels and leaves components alone: they stay in the axes of the frame as filmed.
        """
        ...

    def draw(self, true: Maps, read: Maps) -> tuple[Picture, Picture]:
        """A view's map as it is, and as it is read off features, on one scale."""
        ...


class Flow:
    """U↑ and −U↓ where the context comes first, U↓ and −U↑ where it comes last, in half-image units, standardised.

    Valid where there and back agree.
    """

    name = FLOW

    def arrays(self, method: ObjectiveConfig) -> tuple[str, ...]:
        """Flow both ways: either alone cannot be checked."""
        return ("flow_forward", "flow_backward")

    def channels(self, method: ObjectiveConfig) -> int:
        """To the right, and down."""
        return 2

    def targets(self, batch: PairBatch, method: ObjectiveConfig) -> tuple[CueTarget, CueTarget]:
        """The sign of the query's flow is turned, since it looks the other way in time."""
        flows = (batch.cues["flow_forward"], batch.cues["flow_backward"])
        (context, at), (query, later) = _sights(batch, method)
        size, of_context, of_query = method.view_size, flows[at], flows[later]
        trusted = (consistent(of_context, of_query), consistent(of_query, of_context))
        maps = standardize(
            context.resample_map(half_image_units(of_context), size),
            query.resample_map(-half_image_units(of_query), size),
        )
        valid = [r.resample_map(t.float(), size) > 0.5 for r, t in zip((context, query), trusted, strict=True)]
        first, second = (CueTarget(m, v.expand_as(m), v.expand_as(m)) for m, v in zip(maps, valid, strict=True))
        return first, second

    def draw(self, true: Maps, read: Maps) -> tuple[Picture, Picture]:
        """Direction as hue."""
        longest = max(float(np.percentile(np.hypot(*true), 98)), 1e-3)
        return pictures.flow_picture(true, longest), pictures.flow_picture(read, longest)


class Depth:
    """Log depth, standardised; valid where it is near enough to be believed."""

    name = DEPTH

    def arrays(self, method: ObjectiveConfig) -> tuple[str, ...]:
        """Relative inverse depth."""
        return ("depth",)

    def channels(self, method: ObjectiveConfig) -> int:
        """One."""
        return 1

    def targets(self, batch: PairBatch, method: ObjectiveConfig) -> tuple[CueTarget, CueTarget]:
        """Log depth of each view's frame."""
        logs = [_log_depth(batch, region, frame, method) for region, frame in _sights(batch, method)]
        near = [valid_depth(log) for log in logs]
        first, second = (CueTarget(m, v, v) for m, v in zip(standardize(*logs), near, strict=True))
        return first, second

    def draw(self, true: Maps, read: Maps) -> tuple[Picture, Picture]:
        """Far is white."""
        low, high = np.percentile(true, (1, 99)).tolist()
        return pictures.scaled_picture(true, (low, high)), pictures.scaled_picture(read, (low, high))


class Normals:
    """Unit normals of the surface seen (`lila_cues.pipeline.cues`); valid where depth is. Not of the paper."""

    name = NORMALS

    def arrays(self, method: ObjectiveConfig) -> tuple[str, ...]:
        """Depth tells where they can be believed."""
        return ("normals", "depth")

    def channels(self, method: ObjectiveConfig) -> int:
        """x to the right, y down, z away from the camera."""
        return 3

    def targets(self, batch: PairBatch, method: ObjectiveConfig) -> tuple[CueTarget, CueTarget]:
        """The normals of each view's frame, of unit length again after resampling."""
        told = []
        for region, frame in _sights(batch, method):
            maps = F.normalize(region.resample_map(batch.cues["normals"][:, frame].float(), method.view_size), dim=1)
            near = valid_depth(_log_depth(batch, region, frame, method))
            told.append(CueTarget(maps, near.expand_as(maps), near))
        return told[0], told[1]

    def draw(self, true: Maps, read: Maps) -> tuple[Picture, Picture]:
        """x, y and z as red, green and blue."""
        return pictures.scaled_picture(true, (-1.0, 1.0)), pictures.scaled_picture(read, (-1.0, 1.0))


class Features:
    """Channels of the encoder, L2-normalised per pixel, valid everywhere.

    As refined, as the encoder gave them, or (distilled online) the view's own tokens, which join late.
    """

    name = FEATURES

    def arrays(self, method: ObjectiveConfig) -> tuple[str, ...]:
        """None where they are the view's own."""
        return {"refined": ("features",), "raw": ("features_raw",), "online": ()}[method.distilled]

    def channels(self, method: ObjectiveConfig) -> int:
        """So many of those stored."""
        return method.channels

    def targets(self, batch: PairBatch, method: ObjectiveConfig) -> tuple[CueTarget, CueTarget]:
        """The features of each view's frame; they weigh no cell."""
        size, told = method.view_size, batch.channels.shape[1]
        everywhere = torch.ones((len(batch.clips), told, size, size), dtype=torch.bool, device=batch.clips.device)
        nothing = everywhere[:, :0].float()
        if method.distilled == "online":
            return CueTarget(nothing, everywhere, nothing), CueTarget(nothing, everywhere, nothing)
        stored = batch.cues[self.arrays(method)[0]]
        first, second = (
            CueTarget(F.normalize(region.resample_map(stored[:, frame].float(), size), dim=1), everywhere, nothing)
            for region, frame in _sights(batch, method)
        )
        return first, second

    def draw(self, true: Maps, read: Maps) -> tuple[Picture, Picture]:
        """The three principal components of the true ones."""
        basis = pictures.pca_basis(true.reshape(len(true), -1).T)
        return pictures.pca_picture(true, basis), pictures.pca_picture(read, basis)


CUES: dict[str, Cue] = {cue.name: cue for cue in (Flow(), Depth(), Normals(), Features())}


def active_cues(method: ObjectiveConfig) -> list[Cue]:
    """The cues that a run tells, in the order of their maps."""
    return [cue for name, cue in CUES.items() if name in method.cues]


def _sights(batch: PairBatch, method: ObjectiveConfig) -> tuple[tuple[Regions, int], tuple[Regions, int]]:
    """Of the context and the query view: its region, and which frame of the pair (0: t, 1: t+Δ) it shows."""
    frames = method.frames
    return (batch.regions(0), frames[0]), (batch.regions(1), frames[1])


def _log_depth(batch: PairBatch, region: Regions, frame: int, method: ObjectiveConfig) -> Float[Tensor, "b 1 s s"]:
    return region.resample_map(log_depth(batch.cues["depth"][:, frame : frame + 1]), method.view_size)
