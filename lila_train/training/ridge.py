"""The in-context solve: ridge regression from features to cues (LILA, section 3; docs/method.md, "Solve and loss")."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Solver = Literal["cholesky", "lu"]


def fit(
    features: Float[Tensor, "b d h w"],
    target: Float[Tensor, "b k h w"],
    weight: Float[Tensor, "b m h w"],
    *,
    cells: int,
    strength: float,
    solver: Solver = "cholesky",
) -> Float[Tensor, "b d_and_one k"]:
    """Return the linear map W from features and a constant 1 to targets, fitted on `cells`×`cells` averages of a view.

    `weight` holds masks in [0, 1]; a cell's weight is the product of their averages, and 0 where that is below ½.
    """
    x, y, masks = (F.adaptive_avg_pool2d(t.float(), cells) for t in (features, target, weight))
    x, weights = torch.cat((x, torch.ones_like(x[:, :1])), dim=1), masks.prod(dim=1)
    weights = torch.where(weights < 0.5, torch.zeros_like(weights), weights)
    return solve(x.flatten(2).mT, y.flatten(2).mT, weights.flatten(1), strength, solver)


def predict(features: Float[Tensor, "b d h w"], w: Float[Tensor, "b d_and_one k"]) -> Float[Tensor, "b k h w"]:
    """Return the targets that the map W predicts from the features of a view, at full resolution."""
    with torch.autocast(features.device.type, enabled=False):
        weight, bias = w[:, :-1], w[:, -1]
        return torch.einsum("bdhw,bdk->bkhw", features.to(w.dtype), weight) + bias[:, :, None, None]


def solve(
    x: Float[Tensor, "b n d"],
    y: Float[Tensor, "b n k"],
    weights: Float[Tensor, "b n"],
    strength: float,
    solver: Solver = "cholesky",
) -> Float[Tensor, "b d k"]:
    """Return W = (XᵀCX/N + λI)⁻¹ (XᵀCY/N): weighted ridge regression of Y on X, one system per sample.

    C is the diagonal of `weights`, N the number of rows, λ the `strength`, applied to every column alike. The system
    has the size d×d, whatever N is. Computed in float32 at least, also under autocast; differentiable in all inputs.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y, c = (t if t.dtype == torch.float64 else t.float() for t in (x, y, weights))
        weighted = (x * c.unsqueeze(-1)).mT / x.shape[1]
        gram = weighted @ x
        gram = gram + strength * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        moment = weighted @ y
        if solver == "lu":
            return torch.linalg.solve(gram, moment)
        factor, _ = torch.linalg.cholesky_ex(gram)  # no synchronization with the device: a failure is NaN in the loss
        half = torch.linalg.solve_triangular(factor, moment, upper=False)  # cholesky_solve has no batches on GPUs
        return torch.linalg.solve_triangular(factor.mT, half, upper=True)
