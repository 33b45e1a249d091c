"""How well forward and backward flow agree: docs/method.md, "Cues", for grids of any shape."""

from __future__ import annotations

import numpy as np

SCALE = 0.05  # half-image units
VALID = 0.5  # flow is valid where the confidence is above this


def confidence(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """exp(−e / 0.05) at each pixel of t, e = ‖f + b∘f‖ in half-image units; NaN where either flow is missing.

    Both are 2 y x in px, channel 0 is x. Sampling is bilinear and stays within the border.
    """
    height, width = forward.shape[1:]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    returned = _sample(backward, x + forward[0], y + forward[1])
    half = np.array([2 / width, 2 / height], np.float32)[:, None, None]
    error = np.linalg.norm((forward + returned) * half, axis=0)
    agreement: np.ndarray = np.exp(-error / SCALE)
    return agreement


def _sample(maps: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = maps.shape[1:]
    known = np.isfinite(x) & np.isfinite(y)
    x = np.clip(np.where(known, x, 0), 0, width - 1)
    y = np.clip(np.where(known, y, 0), 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = x - left, y - top
    upper = maps[:, top, left] * (1 - across) + maps[:, top, right] * across
    lower = maps[:, bottom, left] * (1 - across) + maps[:, bottom, right] * across
    return np.where(known, upper * (1 - down) + lower * down, np.nan)
