"""The two views of a pair and what is told of them: the cue maps of METHOD section 2, cut and standardised in batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lila_cues.pamr import refine, three_scales
from lila_train.pairs import PairBatch
from lila_train.regions import Regions
from lila_train.settings import DEPTH, FEATURES, FLOW, Method
from lila_train.targets import consistent, half_image_units, log_depth, near_enough, standardise


@dataclass(frozen=True)
class View:
    """A view of one frame of a batch: the image in [0, 1], its cue map G, where it is valid, how much a cell counts.

    The channels of `cues` are, of those told: flow (2, half-image units of the unmirrored frame, standardised), log
    depth (1, standardised), encoder features (k, L2-normalised per pixel). `channels` are the latter's indices in the
    encoder; distilled online they join late, by `with_features`.
    """

    image: Float[Tensor, "b 3 s s"]
    cues: Float[Tensor, "b c s s"]
    valid: Bool[Tensor, "b k s s"]
    confidence: Float[Tensor, "b m s s"]
    channels: Int[Tensor, "b f"]

    def part(self, rows: slice) -> View:
        """Some of the batch."""
        return View(*(getattr(self, name)[rows] for name in ("image", "cues", "valid", "confidence", "channels")))

    def with_features(self, grid: Float[Tensor, "b e h w"]) -> View:
        """The view with its own tokens as a cue: the chosen channels, refined by PAMR, L2-normalised per pixel."""
        chosen = grid.gather(1, self.channels[..., None, None].expand(-1, -1, *grid.shape[-2:]))
        size = self.image.shape[-1]
        refined = refine(chosen, self.image, three_scales((size, size)))
        return replace(self, cues=torch.cat((self.cues, F.normalize(refined, dim=1)), dim=1))


@dataclass(frozen=True)
class _Told:
    """One cue of one view: its maps, where they are valid, and the masks that weigh a cell of the solve."""

    cues: Tensor
    valid: Tensor
    confidence: Tensor


@torch.no_grad()
def cut_views(batch: PairBatch, method: Method) -> tuple[View, View]:
    """The context and the query view, their cues under one standardisation.

    The context is the frame t, or t+Δ where roles are mirrored. The flow of the query has its sign flipped, so that one
    map fits both. Mirroring an image moves pixels and leaves the components of the flow alone.
    """
    regions = (batch.regions(0), batch.regions(1))
    told = [_TELL[cue](batch, method, regions) for cue in (FLOW, DEPTH, FEATURES) if cue in method.cues]
    return _view(0, batch, method, regions, told), _view(1, batch, method, regions, told)


def _view(
    v: int, batch: PairBatch, method: Method, regions: tuple[Regions, Regions], told: list[tuple[_Told, _Told]]
) -> View:
    image = regions[v].resample_image(batch.rgb[:, _frames(method)[v]].float() / 255, method.view_size)
    everywhere = torch.ones_like(image[:, :1])
    return View(
        image=image,
        cues=torch.cat([both[v].cues for both in told], dim=1),
        valid=torch.cat([both[v].valid for both in told], dim=1),
        confidence=torch.cat([everywhere, *(both[v].confidence for both in told)], dim=1),
        channels=batch.channels,
    )


def _frames(method: Method) -> tuple[int, int]:
    """Which frame of the pair is the context, which the query."""
    return (0, 1) if method.roles == "forward" else (1, 0)


def _tell_flow(batch: PairBatch, method: Method, regions: tuple[Regions, Regions]) -> tuple[_Told, _Told]:
    """U↑ and −U↓ where the context comes first, U↓ and −U↑ where it comes last; valid where there and back agree."""
    assert batch.flow_forward is not None
    assert batch.flow_backward is not None
    flows = (batch.flow_forward, batch.flow_backward)
    of_context, of_query = (flows[f] for f in _frames(method))
    trusted = (consistent(of_context, of_query), consistent(of_query, of_context))
    maps = standardise(
        regions[0].resample_map(half_image_units(of_context), method.view_size),
        regions[1].resample_map(-half_image_units(of_query), method.view_size),
    )
    valid = [r.resample_map(t.float(), method.view_size) > 0.5 for r, t in zip(regions, trusted, strict=True)]
    return _pair(*(_Told(m, v.expand_as(m), v.expand_as(m)) for m, v in zip(maps, valid, strict=True)))


def _tell_depth(batch: PairBatch, method: Method, regions: tuple[Regions, Regions]) -> tuple[_Told, _Told]:
    """Log depth, valid where it is near enough."""
    assert batch.depth is not None
    logs = [
        region.resample_map(log_depth(batch.depth[:, f : f + 1]), method.view_size)
        for region, f in zip(regions, _frames(method), strict=True)
    ]
    near = [near_enough(log) for log in logs]
    return _pair(*(_Told(m, v, v) for m, v in zip(standardise(*logs), near, strict=True)))


def _tell_features(batch: PairBatch, method: Method, regions: tuple[Regions, Regions]) -> tuple[_Told, _Told]:
    """Stored encoder features, valid everywhere; distilled online, the maps are empty and only their masks stand."""
    size, told = method.view_size, batch.channels.shape[1]
    everywhere = torch.ones((len(batch.clips), told, size, size), dtype=torch.bool, device=batch.clips.device)
    nothing = everywhere[:, :0].float()
    if batch.features is None:
        return _pair(*(_Told(nothing, everywhere, nothing) for _ in regions))
    maps = [
        F.normalize(region.resample_map(batch.features[:, f].float(), size), dim=1)
        for region, f in zip(regions, _frames(method), strict=True)
    ]
    return _pair(*(_Told(m, everywhere, nothing) for m in maps))


def _pair(context: _Told, query: _Told) -> tuple[_Told, _Told]:
    return context, query


_TELL = {FLOW: _tell_flow, DEPTH: _tell_depth, FEATURES: _tell_features}
