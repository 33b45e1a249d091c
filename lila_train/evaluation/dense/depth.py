"""Depth on NYUv2 by a linear probe of its logarithm: `nyuv2-depth@linear` (docs/protocols.md, "NYUv2")."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lila_train.evaluation.dense.data import NO_CROP, DenseData, Example, Files, ScaledCrop, ValView, flip_labels
from lila_train.evaluation.dense.metrics import MeanSums
from lila_train.evaluation.dense.normals import MAX_DEPTH_M, open_nyu, read_nyu
from lila_train.evaluation.dense.probes import FrozenFeatures, NormedLinearProbe
from lila_train.evaluation.dense.training import DenseProtocol, ProbeRecipe

MIN_PREDICTED_M = 1e-3  # predictions are clipped to it, and to the largest depth that counts
VARIANCE_SHARE = 0.85  # λ of the loss
LEVELS_PER_M = 25  # of the pictures that are kept
EIGEN_CROP = ((45 / 480, 471 / 480), (41 / 640, 601 / 640))  # rows and columns that are scored, as shares of the sides


class LogDepthProbe(NormedLinearProbe):
    """Batch norm and a 1×1 convolution to the logarithm of depth, upsampled bilinearly; the output is depth in m."""

    def forward(self, features: FrozenFeatures) -> Float[Tensor, "b 1 H W"]:
        return super().forward(features).exp()


def open_nyu_depth(root: Path, limit: int | None) -> DenseData:
    """List the folders of `open_nyu`, without normals."""
    data = open_nyu(root, limit)
    train, val = ([files[:2] for files in split] for split in (data.train, data.val))
    return replace(data, train=train, val=val, read=read_depth_example, about={"layout": "NYUv2"})


def read_depth_example(files: Files) -> Example:
    """Read an image and its depth in m; 0 where it is unknown or beyond 10 m."""
    image, depth_m, _ = read_nyu(files)
    target = np.where(np.isfinite(depth_m) & (depth_m <= MAX_DEPTH_M), depth_m, 0)
    return Example(torch.tensor(image).movedim(-1, 0), torch.tensor(target, dtype=torch.float32)[None])


def depth_loss(outputs: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """Return √(mean d² − 0.85·(mean d)²) over pixels of known depth, d the difference of logarithms.

    Eigen et al., NeurIPS 2014, with λ = 0.85; 0, with a gradient, where no depth is known.
    """
    known = target > 0
    if not known.any():
        return outputs.sum() * 0
    difference = outputs[known].log() - target[known].log()
    return (difference.square().mean() - VARIANCE_SHARE * difference.mean().square()).clamp_min(1e-8).sqrt()


def depth_errors(targets: Float[Tensor, "b 1 h w"], outputs: Float[Tensor, "b 1 h w"]) -> MeanSums:
    """Return RMSE in m, AbsRel and δ1 within Eigen's crop, each image with weight 1; one without depth is left out."""
    rows, columns = (
        slice(*(round(share * side) for share in shares))
        for shares, side in zip(EIGEN_CROP, targets.shape[2:], strict=True)
    )
    sums = MeanSums(dict.fromkeys(("rmse_m", "abs_rel", "delta1"), (0.0, 0.0)))
    for target, output in zip(targets[:, 0, rows, columns], outputs[:, 0, rows, columns], strict=True):
        true = target[target > 0].double()
        found = output[target > 0].double().clamp(MIN_PREDICTED_M, MAX_DEPTH_M)
        if true.numel():
            close = torch.maximum(found / true, true / found) < 1.25
            values = {
                "rmse_m": (found - true).square().mean().sqrt(),
                "abs_rel": ((found - true).abs() / true).mean(),
                "delta1": close.double().mean(),
            }
            sums += MeanSums.of({name: value.item() for name, value in values.items()})
    return sums


def draw_depth(depth_m: Float[Tensor, "1 h w"]) -> UInt8[np.ndarray, "h w 1"]:
    """Return depth as gray levels, 25 per m; 0 where it is unknown."""
    return (depth_m.clamp(0, MAX_DEPTH_M) * LEVELS_PER_M).round().byte().movedim(0, -1).cpu().numpy()


NYU_DEPTH = DenseProtocol(
    name="nyuv2-depth@linear",
    build=LogDepthProbe,
    n_outputs=1,
    recipe=ProbeRecipe(1, 16, 1e-3, 1e-3, schedule="cosine", iterations=38_400),
    train_view=ScaledCrop(480, (1.0, 1.0), ignored=0),
    val_view=ValView(480, NO_CROP),
    loss=depth_loss,
    flip=flip_labels,
    measure=depth_errors,
    from_json=MeanSums,
    draw=draw_depth,
)
