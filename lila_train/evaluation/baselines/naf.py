"""NAF (valeo.ai, 2025) with neighborhood attention in PyTorch where NATTEN, which is compiled per GPU, is missing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import grid_of, normalized, replaced_modules
from stores.errors import LilaError

REPOSITORY = "valeoai/NAF"
REVISION = "ad4e24d2ec32a2fbcccb3beaf7107bc3caa7038a"
MARKER = "src/model/naf.py"
LICENSE = "apache-2.0"
ENCODER = "dinov2_vits14"
WEIGHTS = "https://github.com/valeoai/NAF/releases/download/model/naf_release.pth"

Heads = Float[Tensor, "b _ w n _"]  # queries and keys of one width, values of another


def build(encoder: FrozenEncoder) -> nn.Module:
    """Build the network; it fits any encoder."""
    missing = find_spec("natten") is None
    with replaced_modules("natten", na2d=neighborhood_attention) if missing else nullcontext():
        return import_module("src.model.naf").NAF()


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
    """Return the upsampled grid at the images' size."""
    return network(normalized(images), grid_of(encoder, images), tuple(images.shape[2:]))


def neighborhood_attention(
    queries: Heads,
    keys: Heads,
    values: Heads,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: int = 1,
    backend: str = "",
) -> Heads:
    """Attend from pixels to windows of cells of `dilation` pixels, moved inwards at borders (Hassani et al., 2023).

    The signature is that of NATTEN's `na2d`; the stride must be 1, and `backend` is ignored. Keys and values must be
    equal within each cell, as NAF makes them, so that the pixels of a cell share a window.
    """
    assert stride == 1, "only a stride of 1 is implemented"
    down, across = dilation
    keys, values = keys[:, ::down, ::across], values[:, ::down, ::across]
    cells = queries.unflatten(2, (-1, across)).unflatten(1, (-1, down))
    rows, columns = (
        neighbors(length, side, step).to(queries.device)
        for length, side, step in zip(queries.shape[1:3], kernel_size, dilation, strict=True)
    )
    attended = []
    for row, window in enumerate(rows):  # of cells, one at once: bounds the memory
        q = cells[:, row].permute(0, 2, 4, 1, 3, 5)  # b cell head y x channel
        k, v = (
            x[:, window][:, :, columns].permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2) for x in (keys, values)
        )
        out = F.scaled_dot_product_attention(q.flatten(3, 4).flatten(1, 2), k, v)
        attended.append(out.view(*q.shape[:-1], -1).permute(0, 3, 1, 4, 2, 5).flatten(2, 3))
    return torch.cat(attended, dim=1)


def neighbors(length: int, side: int, step: int) -> Int[Tensor, "cells side"]:
    """Return the cells of `step` pixels along one axis that each cell attends to."""
    cells = length // step
    if cells < side:
        raise LilaError(
            f"expected images of at least {side} cells of {step} pixels for NAF's attention, found {length} pixels; "
            "score larger frames"
        )
    first = (torch.arange(cells) - side // 2).clamp(0, cells - side)
    return first[:, None] + torch.arange(side)
