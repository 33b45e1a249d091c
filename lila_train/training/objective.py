"""Objectives on the two views of a pair (LILA, section 3; docs/method.md).

`InContext` is the paper's: a linear map fitted on the context, scored on the query. `Erm` is its ablation A: one
learned linear head for all frames, scored on both views. Each predicts the targets of the views that it scores; the
losses are the same (losses.py).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.training import ridge
from lila_train.training.config import FEATURES, TrainConfig
from lila_train.training.crops import View
from lila_train.training.targets import active_cues


class InContext:
    """Fit a linear map W from features to cues on the context view, predict the query's cues with it."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def scored(self, context: View, query: View) -> list[View]:
        """Return the views whose predictions enter the loss; the context is only fitted."""
        return [query]

    def __call__(
        self, x_context: Float[Tensor, "b d s s"], x_query: Float[Tensor, "b d s s"], context: View, query: View
    ) -> list[Tensor]:
        """Return the prediction of the query's targets, b×k×s×s."""
        config = self.config
        w = ridge.fit(
            x_context, context.target, context.weight, cells=config.cells, strength=config.ridge, solver=config.solver
        )
        return [ridge.predict(x_query, w.detach() if config.detach else w)]


class Erm(nn.Module):
    """Predict each view's cues with a learned linear head: a row per channel of every cue, and per encoder channel."""

    def __init__(self, config: TrainConfig, features: int, encoder_width: int) -> None:
        super().__init__()
        self.has_features = FEATURES in config.cues
        self.fixed_rows = sum(cue.channels for cue in active_cues(config) if cue.name != FEATURES)
        self.rows = nn.Linear(features, self.fixed_rows + encoder_width)

    def scored(self, context: View, query: View) -> list[View]:
        return [context, query]

    def forward(self, x_context: Tensor, x_query: Tensor, context: View, query: View) -> list[Tensor]:
        """Return the predictions of both views' targets, each b×k×s×s."""
        return [self._predict(x_context, context), self._predict(x_query, query)]

    def _predict(self, features: Tensor, view: View) -> Tensor:
        rows = torch.arange(self.fixed_rows, device=features.device).expand(len(features), -1)
        if self.has_features:
            rows = torch.cat((rows, view.channels + self.fixed_rows), dim=1)
        w = torch.cat((self.rows.weight, self.rows.bias[:, None]), dim=1)[rows].mT
        return ridge.predict(features, w)
