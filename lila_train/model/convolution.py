"""3×3 convolutions by Winograd's algorithm F(4×4, 3×3), where it is faster: without gradients, in float32, on a CPU.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016): a tile of 4×4 outputs takes 36 products
per pair of channels in place of 144. Values differ from those of the direct convolution by rounding, some 1e-5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

TILES_AT_ONCE = 128  # per thread: their 36 products per channel stay in the cache
MIN_CHANNELS, MIN_SIDE = 96, 32  # fewer channels or cells are not faster

_INPUT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
_INPUT += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
_FILTER = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
_FILTER += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def is_plain_inference(*tensors: Tensor) -> bool:
    """Whether an operation on these tensors runs on a CPU as it is: no gradient, autocast, compiler or exporter."""
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return False
    return tensors[0].device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution that keeps the size of the map."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        plain = is_plain_inference(x, self.weight) and x.dtype == self.weight.dtype == torch.float32
        if plain and min(x.shape[2:]) >= MIN_SIDE and min(self.weight.shape[:2]) >= MIN_CHANNELS:
            return winograd(x, self.weight, self.bias)
        return super().forward(x)


def winograd(
    x: Float[Tensor, "b c h w"], weight: Float[Tensor, "o c 3 3"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "b o h w"]:
    """Return the convolution with a border of zeros, channels last in memory."""
    (batch, c, height, width), o = x.shape, len(weight)
    down, across = -(-height // 4), -(-width // 4)  # tiles
    to_input, to_filter, to_output = map(x.new_tensor, (_INPUT, _FILTER, _OUTPUT))
    filters = _transformed(to_filter, weight.permute(2, 3, 0, 1)).view(36, o, c).mT
    result = x.new_empty(batch, down, 4, across, 4, o)
    rows = max(1, TILES_AT_ONCE * torch.get_num_threads() // across)
    for begin in range(0, down, rows):
        end = min(begin + rows, down)
        top, bottom = max(0, 4 * begin - 1), min(height, 4 * end + 1)
        border = (1, 4 * across - width + 1, top - 4 * begin + 1, 4 * end + 1 - bottom)
        strip = F.pad(x[:, :, top:bottom], border).permute(0, 2, 3, 1)
        tiles = strip.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)
        products = _transformed(to_input, tiles).view(36, -1, c) @ filters
        outputs = _transformed(to_output, products).view(4, 4, batch, end - begin, across, o)
        result[:, begin:end] = outputs.permute(2, 3, 0, 4, 1, 5)
    found = result.view(batch, 4 * down, 4 * across, o)[:, :height, :width]
    return (found if bias is None else found.add_(bias)).permute(0, 3, 1, 2)


def _transformed(matrix: Float[Tensor, "k n"], tiles: Tensor) -> Float[Tensor, "k k _"]:
    """Multiply n×n tiles, whose axes come first, by the matrix from the left and by its transpose from the right."""
    k, n = matrix.shape
    return matrix @ (matrix @ tiles.reshape(n, -1)).view(k, n, -1)
