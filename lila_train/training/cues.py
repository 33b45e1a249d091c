"""The cues that features should tell (docs/method.md, "Cues"): each is told, weighed and drawn in one place.

A class here and its row in `CUES` are all that stage two needs of a new cue. A run tells those of `Method.cues`; their
maps follow each other in the order of the table, in which the encoder's features stay last, since distilled online they
join late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lila_train.training.settings import DEPTH, FEATURES, FLOW, NORMALS, Method
from lila_train.training.targets import consistent, half_image_units, log_depth, near_enough, standardise
from stores import pictures
from stores.pictures import Picture

if TYPE_CHECKING:
    from lila_train.training.pairs import PairBatch
    from lila_train.training.regions import Regions

Maps = Float[np.ndarray, "c h w"]


@dataclass(frozen=True)
class Told:
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

    def arrays(self, method: Method) -> tuple[str, ...]:
        """The store's arrays that it is told from."""
        ...

    def channels(self, method: Method) -> int:
        """How many its map has."""
        ...

    def tell(self, batch: PairBatch, method: Method) -> tuple[Told, Told]:
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

    def arrays(self, method: Method) -> tuple[str, ...]:
        """Flow both ways: either alone cannot be checked."""
        return ("flow_forward", "flow_backward")

    def channels(self, method: Method) -> int:
        """To the right, and down."""
        return 2

    def tell(self, batch: PairBatch, method: Method) -> tuple[Told, Told]:
        """The sign of the query's flow is turned, since it looks the other way in time."""
        flows = (batch.cues["flow_forward"], batch.cues["flow_backward"])
        (context, at), (query, later) = _sights(batch, method)
        size, of_context, of_query = method.view_size, flows[at], flows[later]
        trusted = (consistent(of_context, of_query), consistent(of_query, of_context))
        maps = standardise(
            context.resample_map(half_image_units(of_context), size),
            query.resample_map(-half_image_units(of_query), size),
        )
        valid = [r.resample_map(t.float(), size) > 0.5 for r, t in zip((context, query), trusted, strict=True)]
        first, second = (Told(m, v.expand_as(m), v.expand_as(m)) for m, v in zip(maps, valid, strict=True))
        return first, second

    def draw(self, true: Maps, read: Maps) -> tuple[Picture, Picture]:
        """Direction as hue."""
        longest = max(float(np.percentile(np.hypot(*true), 98)), 1e-3)
        return pictures.flow_picture(true, longest), pictures.flow_picture(read, longest)


class Depth:
    """Log depth, standardised; valid where it is near enough to be believed."""

    name = DEPTH

    def arrays(self, method: Method) -> tuple[str, ...]:
        """Relative inverse depth."""
        return ("depth",)

    def channels(self, method: Method) -> int:
        """One."""
        return 1

    def tell(self, batch: PairBatch, method: Method) -> tuple[Told, Told]:
        """Log depth of each view's frame."""
        logs = [_log_depth(batch, region, frame, method) for region, frame in _sights(batch, method)]
        near = [near_enough(log) for log in logs]
        first, second = (Told(m, v, v) for m, v in zip(standardise(*logs), near, strict=True))
        return first, second

    def draw(self, true: Maps, read: Maps) -> tuple[Picture, Picture]:
        """Far is white."""
        low, high = np.percentile(true, (1, 99)).tolist()
        return pictures.scaled_picture(true, (low, high)), pictures.scaled_picture(read, (low, high))


class Normals:
    """Unit normals of the surface seen (`lila_cues.pipeline.derived`); valid where depth is. Not of the paper."""

    name = NORMALS

    def arrays(self, method: Method) -> tuple[str, ...]:
        """Depth tells where they can be believed."""
        return ("normals", "depth")

    def channels(self, method: Method) -> int:
        """x to the right, y down, z away from the camera."""
        return 3

    def tell(self, batch: PairBatch, method: Method) -> tuple[Told, Told]:
        """The normals of each view's frame, of unit length again after resampling."""
        told = []
        for region, frame in _sights(batch, method):
            maps = F.normalize(region.resample_map(batch.cues["normals"][:, frame].float(), method.view_size), dim=1)
            near = near_enough(_log_depth(batch, region, frame, method))
            told.append(Told(maps, near.expand_as(maps), near))
        return told[0], told[1]

    def draw(self, true: Maps, read: Maps) -> tuple[Picture, Picture]:
        """x, y and z as red, green and blue."""
        return pictures.scaled_picture(true, (-1.0, 1.0)), pictures.scaled_picture(read, (-1.0, 1.0))


class Features:
    """Channels of the encoder, L2-normalised per pixel, valid everywhere.

    As refined, as the encoder gave them, or (distilled online) the view's own tokens, which join late.
    """

    name = FEATURES

    def arrays(self, method: Method) -> tuple[str, ...]:
        """None where they are the view's own."""
        return {"refined": ("features",), "raw": ("features_raw",), "online": ()}[method.distilled]

    def channels(self, method: Method) -> int:
        """So many of those stored."""
        return method.channels

    def tell(self, batch: PairBatch, method: Method) -> tuple[Told, Told]:
        """The features of each view's frame; they weigh no cell."""
        size, told = method.view_size, batch.channels.shape[1]
        everywhere = torch.ones((len(batch.clips), told, size, size), dtype=torch.bool, device=batch.clips.device)
        nothing = everywhere[:, :0].float()
        if method.distilled == "online":
            return Told(nothing, everywhere, nothing), Told(nothing, everywhere, nothing)
        stored = batch.cues[self.arrays(method)[0]]
        first, second = (
            Told(F.normalize(region.resample_map(stored[:, frame].float(), size), dim=1), everywhere, nothing)
            for region, frame in _sights(batch, method)
        )
        return first, second

    def draw(self, true: Maps, read: Maps) -> tuple[Picture, Picture]:
        """The three principal components of the true ones."""
        basis = pictures.pca_basis(true.reshape(len(true), -1).T)
        return pictures.pca_picture(true, basis), pictures.pca_picture(read, basis)


CUES: dict[str, Cue] = {cue.name: cue for cue in (Flow(), Depth(), Normals(), Features())}


def told_by(method: Method) -> list[Cue]:
    """The cues that a run tells, in the order of their maps."""
    return [cue for name, cue in CUES.items() if name in method.cues]


def _sights(batch: PairBatch, method: Method) -> tuple[tuple[Regions, int], tuple[Regions, int]]:
    """Of the context and the query view: its region, and which frame of the pair (0: t, 1: t+Δ) it shows."""
    frames = method.frames
    return (batch.regions(0), frames[0]), (batch.regions(1), frames[1])


def _log_depth(batch: PairBatch, region: Regions, frame: int, method: Method) -> Float[Tensor, "b 1 s s"]:
    return region.resample_map(log_depth(batch.cues["depth"][:, frame : frame + 1]), method.view_size)
