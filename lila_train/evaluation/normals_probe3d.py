"""Surface normals as Probe3D measures them: `nyuv2-normals@probe3d` (docs/protocols.md, "NYUv2")."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_train.evaluation.dense_data import CentreView, ValView
from lila_train.evaluation.dense_scores import Angles
from lila_train.evaluation.dense_task import DenseProtocol
from lila_train.evaluation.dpt_probe import DptProbe
from lila_train.evaluation.examples import DIRECTIONS
from lila_train.evaluation.normals import mirrored
from lila_train.evaluation.probe_training import ProbeRecipe

COSINE_LIMIT = 1 - 1e-4
LEAST_CONCENTRATION = 0.01


def uncertain_angular_loss(outputs: Float[Tensor, "b 4 h w"], target: Float[Tensor, "b 4 h w"]) -> Float[Tensor, ""]:
    """Mean of ln(1 + e^(−κπ)) − ln(κ² + 1) + κ·angle where the normal is known (Bae et al., ICCV 2021).

    The fourth output gives the concentration κ, at least 0.01; the angle is in radians, its cosine clamped.
    """
    cosine = F.cosine_similarity(outputs[:, :3], target[:, :3], dim=1).clamp(-COSINE_LIMIT, COSINE_LIMIT)
    concentration = F.elu(outputs[:, 3]) + 1 + LEAST_CONCENTRATION
    normaliser = torch.log1p(torch.exp(-concentration * math.pi)) - torch.log1p(concentration.square())
    known = target[:, 3]
    return ((normaliser + concentration * torch.arccos(cosine)) * known).sum() / known.sum().clamp_min(1)


def measured(target: Float[Tensor, "b 4 h w"], outputs: Float[Tensor, "b 4 h w"]) -> Angles:
    """Angles of the first three outputs; the concentration is not measured."""
    return Angles.of(target, outputs[:, :3])


NYU_PROBE3D = DenseProtocol(
    name="nyuv2-normals@probe3d",
    build=DptProbe,
    n_outputs=4,
    recipe=ProbeRecipe(epochs=10, batch=8, lr=5e-4, weight_decay=0.01, schedule="quarter_cosine", warmup_epochs=1.5),
    train_view=CentreView(480),
    val_view=ValView(480, 480),
    loss=uncertain_angular_loss,
    mirror=mirrored,
    measure=measured,
    from_json=Angles.from_json,
    drawn=DIRECTIONS,
)
