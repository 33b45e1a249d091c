"""Upsamplers of other authors, from local clones, on top of the same frozen encoder; random weights cost the same.

A folder holds the clones under the names of their repositories. Nothing of them is part of this project.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import find
from stores.errors import LilaError

NAMES = ("naf", "uplift-fast", "jafar", "anyup", "uplift", "featup", "loftup", "vit-up")

Features = Callable[[Tensor], Tensor]


def peer(name: str, clones: Path, encoder: FrozenEncoder) -> Features:
    """Return the baseline of that name with random weights; ImportError where its clone or a package is missing."""
    baseline = find(name)
    assert baseline.call is not None
    folder = {path.name.lower(): path for path in clones.iterdir()}.get(str(baseline.repository).split("/")[-1].lower())
    try:
        network = baseline.network(encoder, folder or clones / name, "random")
    except LilaError as error:
        raise ImportError(str(error)) from error
    call = baseline.call
    return lambda images: call(network, encoder, images)


def enlarged(encoder: FrozenEncoder) -> Features:
    """Return the encoder on the input enlarged by its patch size: a token per pixel, without any decoder."""
    factor = encoder.patch_size
    return lambda images: encoder.grid(F.interpolate(images, scale_factor=factor, mode="bilinear"))
