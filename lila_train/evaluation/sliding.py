"""Predictions of large images from windows that slide over them."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Forward = Callable[[Float[Tensor, "b 3 h w"]], Float[Tensor, "b k h w"]]
"""From images to logits of their size."""


def slid(forward: Forward, images: Tensor, window: int, stride: int) -> Tensor:
    """Logits averaged over windows that cover the image; the last ones end at its border."""
    height, width = images.shape[2:]
    total: Tensor | None = None
    weight = images.new_zeros(1, 1, height, width)
    for top in window_starts(height, window, stride):
        for left in window_starts(width, window, stride):
            box = (slice(None), slice(None), slice(top, top + window), slice(left, left + window))
            found = forward(images[box])
            total = found.new_zeros(len(found), found.shape[1], height, width) if total is None else total
            total[box] += found
            weight[box] += 1
    assert total is not None
    return total / weight


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side, all in pixels: every stride, and last where one ends at the border."""
    last = max(0, length - window)
    return sorted({*range(0, last, stride), last})
