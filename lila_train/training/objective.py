"""What one may learn from the two views of a pair (LILA, section 3; docs/method.md).

`InContext` is the method: a linear map fitted on the context, judged on the query. `Erm` is its ablation A: one linear
head for all frames, judged on each frame's own cues.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.training.config import FEATURES, ObjectiveConfig
from lila_train.training.crops import View
from lila_train.training.losses import Counts, count, edge_loss, l1_loss
from lila_train.training.ridge import fit_context, predict
from lila_train.training.targets import active_cues


@dataclass(frozen=True)
class Losses:
    """What a step measured; `total` carries the gradient."""

    total: Tensor
    l1: Tensor
    edge: Tensor


@runtime_checkable
class Objective(Protocol):
    """What is asked of the features of both views."""

    def counts(self, context: View, query: View) -> Counts:
        """How many entries the losses of a whole batch are divided by."""
        ...

    def __call__(self, of_context: Tensor, of_query: Tensor, context: View, query: View, counts: Counts) -> Losses:
        """The losses for the features b×d×s×s of the two views."""
        ...


@dataclass(frozen=True)
class InContext:
    """Fit W* on the context, read the query's cues with it, compare."""

    method: ObjectiveConfig

    def counts(self, context: View, query: View) -> Counts:
        """Entries of the query alone: the context is only fitted."""
        return count(query.valid)

    def __call__(self, of_context: Tensor, of_query: Tensor, context: View, query: View, counts: Counts) -> Losses:
        return measured(self.predicted(of_context, of_query, context, query), query, counts, self.method)

    def predicted(self, of_context: Tensor, of_query: Tensor, context: View, query: View) -> Tensor:
        """The query's cues b×k×s×s, read off its features by the map that the context gives."""
        solution = fit_context(
            of_context,
            context.cues,
            context.confidence,
            cells=self.method.cells,
            strength=self.method.ridge,
            solver=self.method.solver,
        )
        if self.method.detach:
            solution = solution.detach()
        return predict(of_query, solution)


class Erm(nn.Module):
    """Ablation A: a learned linear head takes each frame's features to its own cues; the same losses, no solve.

    The head has a row for each channel of every cue, and of the encoder for every channel there is.
    """

    def __init__(self, method: ObjectiveConfig, features: int, encoder_width: int) -> None:
        super().__init__()
        self.method = method
        self.rows = nn.Linear(features, _fixed_rows(method) + encoder_width)

    def counts(self, context: View, query: View) -> Counts:
        """Entries of both views."""
        return count(torch.cat((context.valid, query.valid)))

    def forward(self, of_context: Tensor, of_query: Tensor, context: View, query: View, counts: Counts) -> Losses:
        """The losses of both views, summed."""
        a, b = (
            measured(self._read(features, view), view, counts, self.method)
            for features, view in ((of_context, context), (of_query, query))
        )
        return Losses(a.total + b.total, a.l1 + b.l1, a.edge + b.edge)

    def predicted(self, of_context: Tensor, of_query: Tensor, context: View, query: View) -> Tensor:
        """The query's cues b×k×s×s by the learned head; the context has no part in it."""
        return self._read(of_query, query)

    def _read(self, features: Tensor, view: View) -> Tensor:
        fixed = _fixed_rows(self.method)
        rows = torch.arange(fixed, device=features.device).expand(len(features), -1)
        if FEATURES in self.method.cues:
            rows = torch.cat((rows, view.channels + fixed), dim=1)
        solution = torch.cat((self.rows.weight, self.rows.bias[:, None]), dim=1)[rows].mT
        return predict(features, solution)


def _fixed_rows(method: ObjectiveConfig) -> int:
    return sum(cue.channels(method) for cue in active_cues(method) if cue.name != FEATURES)


def measured(predicted: Float[Tensor, "b k s s"], view: View, counts: Counts, method: ObjectiveConfig) -> Losses:
    """L1 + γ·edge of predicted cues."""
    l1 = l1_loss(predicted, view.cues, view.valid, counts)
    edge = edge_loss(predicted, view.cues, view.valid, counts, sigma=method.edge_sigma, form=method.edge_form)
    return Losses(l1 + method.edge_weight * edge, l1, edge)
