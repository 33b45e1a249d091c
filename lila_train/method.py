"""One step of the method: two views of a pair, a linear map fitted on one, its error on the other (LILA, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lila_train.objective import edge_loss, l1_loss
from lila_train.pairs import PairBatch
from lila_train.settings import Method
from lila_train.solve import fit_context, predict
from lila_train.targets import consistent, half_image_units, log_depth, near_enough, standardise

Features = Callable[[Tensor], Tensor]
FLOW_CHANNELS = 2


@dataclass(frozen=True)
class View:
    """A view of one frame of a batch: the image in [0, 1], its cue map G, and where flow and depth are believed.

    The channels of `cues` are flow (2, half-image units of the unmirrored frame, standardised), log depth (1,
    standardised) and encoder features (L2-normalised per pixel).
    """

    image: Float[Tensor, "b 3 s s"]
    cues: Float[Tensor, "b k s s"]
    flow_valid: Bool[Tensor, "b 1 s s"]
    depth_valid: Bool[Tensor, "b 1 s s"]

    @property
    def valid(self) -> Bool[Tensor, "b k s s"]:
        """The mask of every cue channel; encoder features are always valid."""
        rest = self.cues.shape[1] - FLOW_CHANNELS - 1
        always = torch.ones_like(self.flow_valid).expand(-1, rest, -1, -1)
        return torch.cat((self.flow_valid.expand(-1, FLOW_CHANNELS, -1, -1), self.depth_valid, always), dim=1)

    @property
    def confidence(self) -> Float[Tensor, "b 3 s s"]:
        """The masks whose pooled product weighs a cell of the solve: flow, flow, depth."""
        return torch.cat((self.flow_valid, self.flow_valid, self.depth_valid), dim=1).float()


@dataclass(frozen=True)
class Losses:
    """What a step measured; `total` carries the gradient."""

    total: Tensor
    l1: Tensor
    edge: Tensor


def cut_views(batch: PairBatch, size: int) -> tuple[View, View]:
    """The context view of frame t and the query view of frame t+Δ, their cues under one standardisation.

    The query's flow is the backward flow with its sign flipped, so that one map fits both. Mirroring moves pixels and
    leaves the components of the flow alone.
    """
    flows = (half_image_units(batch.flow_forward), -half_image_units(batch.flow_backward))
    trusted = (
        consistent(batch.flow_forward, batch.flow_backward),
        consistent(batch.flow_backward, batch.flow_forward),
    )
    regions = (batch.regions(0), batch.regions(1))
    flow = standardise(*(r.resample_map(f, size) for r, f in zip(regions, flows, strict=True)))
    depths = [regions[i].resample_map(log_depth(batch.depth[:, i : i + 1]), size) for i in (0, 1)]
    depth = standardise(*depths)

    def view(i: int) -> View:
        features = F.normalize(regions[i].resample_map(batch.features[:, i].float(), size), dim=1)
        return View(
            image=regions[i].resample_image(batch.rgb[:, i].float() / 255, size),
            cues=torch.cat((flow[i], depth[i], features), dim=1),
            flow_valid=regions[i].resample_map(trusted[i].float(), size) > 0.5,
            depth_valid=near_enough(depths[i]),
        )

    return view(0), view(1)


def in_context_losses(features_of: Features, context: View, query: View, method: Method) -> Losses:
    """Fit W* on the context, read the query's cues with it, compare."""
    features = features_of(torch.cat((context.image, query.image)))
    of_context, of_query = features.chunk(2)
    solution = fit_context(
        of_context,
        context.cues,
        context.confidence,
        cells=method.cells,
        strength=method.ridge,
        solver=method.solver,
    )
    return measured(predict(of_query, solution), query, method)


def measured(predicted: Float[Tensor, "b k s s"], view: View, method: Method) -> Losses:
    """L1 + γ·edge of predicted cues."""
    valid = view.valid
    l1 = l1_loss(predicted, view.cues, valid)
    edge = edge_loss(predicted, view.cues, valid, sigma=method.edge_sigma, form=method.edge_form)
    return Losses(l1 + method.edge_weight * edge, l1, edge)
