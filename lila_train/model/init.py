"""`init=pca`: the decoder starts as a linear upsampler of its encoder (docs/method.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lila_train.model.decoder import Decoder

PIXEL_BIAS = 4.0  # standard deviations of the first component: keeps the pixel head's ReLU linear
OTHER_LEVELS = 0.1  # factor of the levels that do not carry the components at first


@torch.no_grad()
def init_pca(
    decoder: Decoder,
    tokens: Float[Tensor, "n e"],
    all_reduce_sum: Callable[[Tensor], Tensor] = lambda values: values,
    is_main: bool = True,
) -> None:
    """Make the decoder upsample the first min(d, o₂) principal components of the third tapped block's tokens.

    Residual units begin as the identity, 1×1 fusions and the 3×3 convolutions after the third level too. The other
    levels begin at a tenth of their default weight, and every weight has a gradient after the first step. Each rank
    passes the tokens of its own images, and `all_reduce_sum` sums over ranks.
    """
    count = min(decoder.widths.out, decoder.widths.levels[2])
    components, mean = principal_components(tokens, count, all_reduce_sum, is_main)
    parts: Any = decoder  # containers of modules have no types
    units = [unit for fuse in parts.fuse for unit in (fuse.skip_unit, fuse.unit) if unit is not None]
    identities = [parts.reduce[2], parts.head, *parts.pixel[::2], *(fuse.out for fuse in parts.fuse)]
    for conv in identities:
        nn.init.dirac_(conv.weight)
    for conv in (*identities[1:], *(unit.conv2 for unit in units)):
        nn.init.zeros_(conv.bias)
    for unit in units:
        nn.init.zeros_(unit.conv2.weight)
    for level in (0, 1, 3):
        parts.reduce[level].weight.mul_(OTHER_LEVELS)
    parts.project[2].weight[:count] = components[..., None, None]
    parts.project[2].bias[:count] = -components @ mean
    parts.pixel[0].bias.fill_(PIXEL_BIAS)
    parts.pixel[2].bias.fill_(-PIXEL_BIAS)


def principal_components(
    tokens: Float[Tensor, "n e"],
    count: int,
    all_reduce_sum: Callable[[Tensor], Tensor] = lambda values: values,
    is_main: bool = True,
) -> tuple[Float[Tensor, "k e"], Float[Tensor, " e"]]:
    """Return the first `count` principal axes of all ranks' tokens, over the largest standard deviation, and the mean.

    From moments in float64, summed over ranks. The largest entry of an axis is positive; an axis without variance is 0.
    """
    x = tokens.double()
    moments = all_reduce_sum(torch.cat((x.new_full((1,), len(x)), x.sum(0), (x.mT @ x).flatten()))).cpu()
    n, width = moments[0], x.shape[1]
    mean = moments[1 : width + 1] / n
    variance, axes = torch.linalg.eigh(moments[width + 1 :].view(width, width) / n - mean.outer(mean))
    variance, axes = variance.flip(0)[:count], axes.mT.flip(0)[:count]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    axes = axes * signs * (variance > 1e-9 * variance[0])[:, None] / variance[0].clamp(min=1e-30).sqrt()
    shared = all_reduce_sum(torch.cat((axes, mean[None])).to(tokens) * is_main)  # bitwise those of rank 0
    return shared[:-1], shared[-1]
