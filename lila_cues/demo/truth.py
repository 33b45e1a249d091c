"""What is known of a rendered clip: which layer is seen at each pixel, and each layer's homography in each frame.

Masks, depth, flow between any two frames, and visibility follow in closed form; nothing is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8


@dataclass(frozen=True)
class Truth:
    """The ground truth of one clip; frames count from 0."""

    layers: UInt8[np.ndarray, "frames y x"]  # the layer seen at each pixel, 0 is the farthest
    homographies: Float[np.ndarray, "frames layers 3 3"]  # texels to pixels times depth in metres
    labels: UInt8[np.ndarray, " layers"]  # the annotated object that a layer is, 0 for none

    @property
    def frames(self) -> int:
        """How many frames the clip has."""
        return len(self.layers)

    def masks(self) -> UInt8[np.ndarray, "frames y x"]:
        """The annotated object seen at each pixel, 0 for background."""
        return self.labels[self.layers]

    def depth(self, t: int) -> Float32[np.ndarray, "y x"]:
        """Relative inverse depth q = 100 / z with z in metres, of frame t."""
        return (100 * self._texels(t)[2]).reshape(self.layers.shape[1:]).astype(np.float32)

    def flow(self, t: int, other: int) -> Float32[np.ndarray, "2 y x"]:
        """Where the surface seen at each pixel of frame t is in frame `other`, minus where it is; x first, pixels."""
        height, width = self.layers.shape[1:]
        there = _applied(self.homographies[other], self.layers[t].reshape(-1), self._texels(t))
        moved = (there[:2] / there[2]).reshape(2, height, width)
        return (moved - _pixels(height, width)[:2].reshape(2, height, width)).astype(np.float32)

    def visible(self, t: int, other: int) -> Bool[np.ndarray, "y x"]:
        """Whether what is seen at each pixel of frame t is seen in frame `other` too: inside it and not covered."""
        height, width = self.layers.shape[1:]
        x, y = np.rint(self.flow(t, other) + _pixels(height, width)[:2].reshape(2, height, width)).astype(int)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        seen = self.layers[other][np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        return inside & (seen == self.layers[t])

    def save(self, path: Path) -> None:
        """Write as npz: `layers`, `homographies`, `labels`."""
        np.savez_compressed(path, layers=self.layers, homographies=self.homographies, labels=self.labels)

    @staticmethod
    def load(path: Path) -> Truth:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return Truth(layers=file["layers"], homographies=file["homographies"], labels=file["labels"])

    def _texels(self, t: int) -> np.ndarray:
        """Every pixel's point on its layer, times inverse depth: 3 × pixels."""
        height, width = self.layers.shape[1:]
        inverse = np.linalg.inv(self.homographies[t])
        return _applied(inverse, self.layers[t].reshape(-1), _pixels(height, width))


def _pixels(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x.reshape(-1), y.reshape(-1), np.ones(height * width)])


def _applied(matrices: np.ndarray, which: np.ndarray, points: np.ndarray) -> np.ndarray:
    """To each point (a column) the matrix of its own layer."""
    result = np.empty_like(points)
    for layer in np.unique(which):
        chosen = which == layer
        result[:, chosen] = matrices[layer] @ points[:, chosen]
    return result
