"""From stored cues to what the features must explain: log depth, half-image flow, confidence, standardised maps.

docs/method.md, "Cues". Flow is in pixels of the cue grid on the way in, channel 0 to the right and channel 1 down.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lila_train.training.ranks import summed
from stores.confidence import SCALE, VALID

DEPTH_LIMIT = 0.9  # log depth from which on a pixel is too far to be believed


def log_depth(inverse_depth: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """D = ln(1 + 1/(s + 0.1))/ln 11 with s = 0.01 q: relative inverse depth q ≥ 0 to (0, 1], 1 = infinitely far."""
    return torch.log1p(1 / (0.01 * inverse_depth.clamp(min=0) + 0.1)) / math.log(11)


def half_image_units(flow_px: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 2 h w"]:
    """Flow in pixels to units of half the image: u·2/W, v·2/H."""
    h, w = flow_px.shape[-2:]
    return flow_px * flow_px.new_tensor((2 / w, 2 / h)).view(1, 2, 1, 1)


def warp(values: Float[Tensor, "b c h w"], flow_px: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """`values` read at p + flow(p), bilinear, the border repeated; any aspect ratio."""
    h, w = flow_px.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(h, device=flow_px.device, dtype=flow_px.dtype),
        torch.arange(w, device=flow_px.device, dtype=flow_px.dtype),
        indexing="ij",
    )
    at_x = (x + flow_px[:, 0] + 0.5) * (2 / w) - 1
    at_y = (y + flow_px[:, 1] + 0.5) * (2 / h) - 1
    grid = torch.stack((at_x, at_y), dim=-1)
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)


def consistent(flow_ab: Float[Tensor, "b 2 h w"], flow_ba: Float[Tensor, "b 2 h w"]) -> Bool[Tensor, "b 1 h w"]:
    """Where the flow a→b, followed by b→a, comes back: exp(−e/0.05) > ½ with e in half-image units. Flows in pixels."""
    error = half_image_units(flow_ab + warp(flow_ba, flow_ab)).norm(dim=1, keepdim=True)
    return torch.exp(-error / SCALE) > VALID


def near_enough(log_depth: Float[Tensor, "b 1 h w"]) -> Bool[Tensor, "b 1 h w"]:
    """Where log depth is believed."""
    return log_depth < DEPTH_LIMIT


def standardise(first: Float[Tensor, "*s"], second: Float[Tensor, "*t"]) -> tuple[Tensor, Tensor]:
    """(x − mean)/(1e-3 + std) with one mean and one unbiased std over both tensors and, under DDP, over all ranks."""
    joined = torch.cat((first.flatten(), second.flatten())).double()
    sums = torch.stack((joined.new_tensor(joined.numel()), joined.sum(), joined.square().sum()))
    count, total, squares = summed(sums)
    mean = total / count
    std = ((squares - count * mean.square()) / (count - 1)).clamp(min=0).sqrt()
    scale = 1e-3 + std
    return tuple(((x - mean) / scale).to(x.dtype) for x in (first, second))
