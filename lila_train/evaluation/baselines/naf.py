"""NAF with neighbourhood attention in PyTorch where NATTEN, which must be compiled for each GPU, is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.baselines.upsamplers import imported
from stores.errors import LilaError

NATTEN = "natten"
ROWS_AT_ONCE = 32  # bounds the memory of the scores

Heads = Float[Tensor, "b _ w n _"]  # queries and keys of one width, values of another


def build(root: Path, encoder: FrozenEncoder) -> nn.Module:
    """The network of a clone; it fits any encoder."""
    with _natten(), imported(root, "src.model.naf") as module:
        return module.NAF()


def neighbourhood_attention(
    queries: Heads,
    keys: Heads,
    values: Heads,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    stride: int = 1,
    backend: str = "",
) -> Heads:
    """Each cell attends to a window of cells `dilation` apart, moved inwards at the borders (Hassani et al., 2023).

    `stride` and `backend` are there because NATTEN's function has them; the stride is 1.
    """
    assert stride == 1, "only a stride of 1 is known here"
    height, width = queries.shape[1:3]
    rows, columns = (
        neighbours(length, side, step).to(queries.device)
        for length, side, step in zip((height, width), kernel_size, dilation, strict=True)
    )
    parts = [
        _attended(queries[:, top : top + ROWS_AT_ONCE], keys, values, rows[top : top + ROWS_AT_ONCE], columns)
        for top in range(0, height, ROWS_AT_ONCE)
    ]
    return torch.cat(parts, dim=1)


def neighbours(length: int, side: int, step: int) -> Int[Tensor, "length side"]:
    """The places along one axis that each place attends to: `side` of those that leave its remainder by `step`."""
    places = torch.arange(length)
    group, within = places % step, places // step
    size = (length - group + step - 1) // step
    if int(size.min()) < side:
        raise LilaError(
            f"expected images of at least {side} cells of {step} pixels for NAF's attention, found {length} pixels; "
            "score larger frames"
        )
    first = torch.minimum((within - side // 2).clamp_min(0), size - side)
    return (first[:, None] + torch.arange(side)) * step + group[:, None]


def _attended(queries: Heads, keys: Heads, values: Heads, rows: Tensor, columns: Tensor) -> Heads:
    scale = queries.shape[-1] ** -0.5
    places = [(row, column) for row in rows.T for column in columns.T]
    scores = [(queries * keys[:, row][:, :, column]).sum(dim=-1) for row, column in places]
    weights = torch.softmax(scale * torch.stack(scores), dim=0)
    found = torch.zeros(*queries.shape[:-1], values.shape[-1], dtype=values.dtype, device=values.device)
    for weight, (row, column) in zip(weights, places, strict=True):
        found.addcmul_(weight[..., None], values[:, row][:, :, column])
    return found


@contextmanager
def _natten() -> Iterator[None]:
    """A stand-in for NATTEN while the code is imported, which keeps hold of it; NATTEN itself where it is installed."""
    if find_spec(NATTEN) is not None:
        yield
        return
    module = ModuleType(NATTEN)
    module.na2d = neighbourhood_attention  # type: ignore[attr-defined]
    sys.modules[NATTEN] = module
    try:
        yield
    finally:
        del sys.modules[NATTEN]
