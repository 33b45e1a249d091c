"""The in-context solve: the linear map that takes the context frame's features to its cues (LILA, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_train.training.config import Solver


def ridge(
    features: Float[Tensor, "b n d"],
    cues: Float[Tensor, "b n k"],
    weights: Float[Tensor, "b n"],
    strength: float,
    solver: Solver = "cholesky",
) -> Float[Tensor, "b d k"]:
    """W* = (XᵀCX/N + λI)⁻¹ (XᵀCY/N): weighted ridge regression of `cues` Y on `features` X, one system per sample.

    C is the diagonal of `weights`, N the number of pixels, λ the `strength`, applied to every column alike. The system
    has the size of the features, whatever N. Computed in float32 at least, also under autocast; differentiable in all
    inputs.
    """
    with torch.autocast(features.device.type, enabled=False):
        x, y, c = (t if t.dtype == torch.float64 else t.float() for t in (features, cues, weights))
        weighted = (x * c.unsqueeze(-1)).mT / x.shape[1]
        gram = weighted @ x
        gram = gram + strength * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        moment = weighted @ y
        if solver == "lu":
            return torch.linalg.solve(gram, moment)
        factor, _ = torch.linalg.cholesky_ex(gram)  # no look at the device: a failure is NaN in the loss
        return torch.cholesky_solve(moment, factor)


def with_bias(features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d_and_one h w"]:
    """The features with a channel of ones behind them."""
    return torch.cat((features, torch.ones_like(features[:, :1])), dim=1)


def fit_context(
    features: Float[Tensor, "b d h w"],
    cues: Float[Tensor, "b k h w"],
    confidence: Float[Tensor, "b m h w"],
    *,
    cells: int,
    strength: float,
    solver: Solver = "cholesky",
) -> Float[Tensor, "b d_and_one k"]:
    """The map W* fitted on `cells`×`cells` averages of a view.

    `confidence` holds masks in [0, 1]; a cell's weight is the product of their averages, and 0 where that is below ½.
    """
    pooled_features, pooled_cues, pooled_masks = (
        F.adaptive_avg_pool2d(t.float(), cells) for t in (with_bias(features), cues, confidence)
    )
    weights = pooled_masks.prod(dim=1)
    weights = torch.where(weights < 0.5, torch.zeros_like(weights), weights)
    return ridge(
        pooled_features.flatten(2).mT, pooled_cues.flatten(2).mT, weights.flatten(1), strength=strength, solver=solver
    )


def predict(features: Float[Tensor, "b d h w"], solution: Float[Tensor, "b d_and_one k"]) -> Float[Tensor, "b k h w"]:
    """The cues that the map W* reads off the features of a view."""
    with torch.autocast(features.device.type, enabled=False):
        weight, bias = solution[:, :-1], solution[:, -1]
        return torch.einsum("bdhw,bdk->bkhw", features.to(solution.dtype), weight) + bias[:, :, None, None]
