"""NAF (valeo.ai, 2025) with neighborhood attention in PyTorch where NATTEN, which is compiled per GPU, is missing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines import normalized, replaced_modules
from stores.errors import LilaError

REPOSITORY = "valeoai/NAF"
REVISION = "ad4e24d2ec32a2fbcccb3beaf7107bc3caa7038a"
MARKER = "src/model/naf.py"
LICENSE = "apache-2.0"
ENCODER = "dinov2_vits14"
WEIGHTS = "https://github.com/valeoai/NAF/releases/download/model/naf_release.pth"

ROWS_AT_ONCE = 32  # bounds the memory of the scores

Heads = Float[Tensor, "b _ w n _"]  # queries and keys of one width, values of another


def build(encoder: FrozenEncoder) -> nn.Module:
    """Build the network; it fits any encoder."""
    missing = find_spec("natten") is None
    with replaced_modules("natten", na2d=neighborhood_attention) if missing else nullcontext():
        return import_module("src.model.naf").NAF()


def call(network: nn.Module, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
    """Return the upsampled grid at the images' size."""
    return network(normalized(images), encoder.grid(images), tuple(images.shape[2:]))


def neighborhood_attention(
    queries: Heads,
    keys: Heads,
    values: Heads,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: int = 1,
    backend: str = "",
) -> Heads:
    """Attend from each cell to a window of cells `dilation` apart, moved inwards at borders (Hassani et al., 2023).

    The signature is that of NATTEN's `na2d`; the stride must be 1, and `backend` is ignored.
    """
    assert stride == 1, "only a stride of 1 is implemented"
    height, width = queries.shape[1:3]
    rows, columns = (
        neighbors(length, side, step).to(queries.device)
        for length, side, step in zip((height, width), kernel_size, dilation, strict=True)
    )
    parts = []
    for part, part_rows in zip(queries.split(ROWS_AT_ONCE, dim=1), rows.split(ROWS_AT_ONCE), strict=True):
        window = [(row, column) for row in part_rows.T for column in columns.T]
        scores = torch.stack([(part * keys[:, row][:, :, column]).sum(dim=-1) for row, column in window])
        weights = torch.softmax(queries.shape[-1] ** -0.5 * scores, dim=0)
        attended = values.new_zeros(*part.shape[:-1], values.shape[-1])
        for weight, (row, column) in zip(weights, window, strict=True):
            attended.addcmul_(weight[..., None], values[:, row][:, :, column])
        parts.append(attended)
    return torch.cat(parts, dim=1)


def neighbors(length: int, side: int, step: int) -> Int[Tensor, "length side"]:
    """Return the positions along one axis that each position attends to: `side` of those congruent to it mod `step`."""
    positions = torch.arange(length)
    group, within = positions % step, positions // step
    size = (length - group + step - 1) // step
    if length // step < side:
        raise LilaError(
            f"expected images of at least {side} cells of {step} pixels for NAF's attention, found {length} pixels; "
            "score larger frames"
        )
    first = torch.minimum((within - side // 2).clamp_min(0), size - side)
    return (first[:, None] + torch.arange(side)) * step + group[:, None]
