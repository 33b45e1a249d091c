"""Features of pictures on the model's device: in passes that fit its memory, and colored there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lila_cues import console
from lila_cues.viz.pictures import Basis, Picture
from lila_train.inference.config import FeatureConfig
from lila_train.inference.feature_cache import Features
from lila_train.model.lila import MAX_UNTILED_PIXELS, Lila
from lila_train.model.resize import Size, size_of
from lila_train.outputs import scratch_array
from stores.errors import LilaError

PASS_PIXELS = 2**20
"""Of the pictures of one pass on a GPU where their number is not given; a CPU computes one by one, in less memory."""
BYTES_PER_CHANNEL = 32
"""Of a GPU's memory, per pixel and channel of the features, in float32: 18 measured on a CPU at 896², with a margin."""
MIN_TILE = 8  # patches
COLOR_ROWS = 512  # of a large image, colored at a time


class FeatureComputer:
    """Computes features in passes that fit the memory of the model's device.

    A pass that does not fit is repeated with half the pixels: fewer pictures, then tiles. Later passes start there.

    Args:
        model: the model, on its device.
        config: what shapes the features.
        batch: pictures of one size in a pass; None: as many as have PASS_PIXELS, on a CPU one.
        folder: where the features of tiled pictures lie until they are written.
    """

    def __init__(
        self, model: Lila, config: FeatureConfig, batch: int | None = None, folder: Path | None = None
    ) -> None:
        self.model, self.config, self.batch, self.folder = model, config, batch, folder
        self.max_pixels = config.tile**2 if config.tile else MAX_UNTILED_PIXELS
        if model.device.type == "cuda" and config.tile is None:
            free, _ = torch.cuda.mem_get_info(model.device)
            self.max_pixels = min(self.max_pixels, free // (BYTES_PER_CHANNEL * model.decoder.widths.out))

    def pass_size(self, shape: tuple[int, ...]) -> int:
        """Return how many pictures of this shape (y, x, …) are computed at once, at least 1."""
        pixels = shape[0] * shape[1]
        batch = self.batch or (1 if self.model.device.type == "cpu" else PASS_PIXELS // pixels)
        return max(1, min(batch, self.max_pixels // pixels))

    def tile(self, shape: tuple[int, ...]) -> int | None:
        """Return the side of tiles for a picture of this shape (y, x, …); None if it is computed in one piece."""
        height, width = shape[:2]
        given, default = self.config.tile, 64 * self.model.encoder.patch_size
        if height * width <= self.max_pixels and (given is None or max(height, width) <= given):
            return None
        return min(given or default, math.isqrt(self.max_pixels))

    def __call__(self, pictures: Sequence[Picture]) -> list[Features | Tensor]:
        """Return the features d×h×w of pictures of one size: on the device, or mapped from a file if they are tiled.

        Raises:
            LilaError: memory does not suffice for a small tile.
        """
        found: list[Features | Tensor] = []
        while len(found) < len(pictures):
            pending, tile = pictures[len(found) :], self.tile(pictures[0].shape)
            pending = pending[: self.pass_size(pictures[0].shape)]
            try:
                found += self.untiled(pending) if tile is None else [self.tiled(pending[0], tile)]
            except torch.OutOfMemoryError as error:
                self._halve(tile**2 if tile else len(pending) * math.prod(pending[0].shape[:2]), error)
        return found

    def _halve(self, pixels: int, error: torch.OutOfMemoryError) -> None:
        """Limit a pass to half of the pixels for which memory did not suffice."""
        self.max_pixels = pixels // 2
        side = math.isqrt(self.max_pixels)
        if side < MIN_TILE * self.model.encoder.patch_size:
            raise LilaError(
                f"expected memory for {math.isqrt(pixels)}² pixels at once on {self.model.device}, found too little; "
                "end other programs that use the device, or pass --device cpu"
            ) from error
        console.err.print(f"memory did not suffice for {math.isqrt(pixels)}² pixels at once: {side}² from here on")

    @torch.inference_mode()
    def untiled(self, pictures: Sequence[Picture]) -> Float[Tensor, "b d _ _"]:
        """Return features of pictures of one size, on the device, in the type of the arrays; they are not checked."""
        images = torch.from_numpy(np.stack(pictures)).movedim(-1, 1).to(self.model.device)
        size = size_of(images)
        output_size = None if self.config.stride == 1 else self.config.map_size(size)
        with self._autocast():
            return self.model(images, output_size=output_size).to(getattr(torch, self.config.dtype))

    @torch.inference_mode()
    def at(self, picture: Picture, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n d"]:
        """Return features at points (x, y) of one picture, in the type of the arrays."""
        with self._autocast():
            features = self.model.prepare(picture).at(torch.from_numpy(points))
        return np.asarray(features.float().cpu(), self.config.dtype)

    @torch.inference_mode()
    def tiled(self, picture: Picture, tile: int) -> Features:
        """Return features of a picture that is cut into tiles, mapped from an unnamed file.

        With a stride they are those of the whole map's pixels in the middle of each cell.
        """
        size = (picture.shape[0], picture.shape[1])
        shape = (self.model.decoder.widths.out, *self.config.map_size(size))
        out = scratch_array(shape, np.dtype(self.config.dtype), self.folder)  # the default folder may be small
        target = out if shape[1:] == size else _Subsampled(out, size)
        with self._autocast():
            self.model.features(picture, tile=tile, overlap=self.config.overlap, out=target)
        return out

    def _autocast(self) -> torch.autocast:
        precision = getattr(torch, self.config.precision)
        return torch.autocast(self.model.device.type, precision, enabled=precision != torch.float32)


class _Subsampled:
    """Takes a map of a larger `size` part by part, and keeps the pixels in the middle of each cell of `array`."""

    def __init__(self, array: Features, size: Size) -> None:
        self.array, self.shape = array, (array.shape[0], *size)
        self.places = [
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(array.shape[1:], size, strict=True)
        ]

    def __setitem__(self, region: tuple[slice, slice, slice], part: Features) -> None:
        kept = []
        for part_of, places, length in zip(region[1:], self.places, self.shape[1:], strict=True):
            start, stop, _ = part_of.indices(length)
            first, last = np.searchsorted(places, (start, stop))
            kept.append((slice(first, last), places[first:last] - start))
        (rows, y), (columns, x) = kept
        self.array[:, rows, columns] = part[:, y[:, None], x]


def spread_pixels(features: Features | Tensor) -> Float[np.ndarray, "n d"]:
    """Return the feature vectors of about 20,000 pixels, spread over the image, on the host."""
    pixels = features.reshape(len(features), -1)
    pixels = pixels[:, :: max(1, pixels.shape[1] // 20_000)]
    return np.asarray(pixels.cpu() if isinstance(pixels, Tensor) else pixels, np.float32).T


@torch.inference_mode()
def pca_colors(features: Features | Tensor, basis: Basis, device: torch.device) -> UInt8[Tensor, "h w 3"]:
    """Return features as red, green and blue, on the device; values beyond the range of the basis are clipped."""
    weights, offset = (torch.tensor(255 * part, dtype=torch.float32, device=device) for part in basis)
    parts = []
    for top in range(0, features.shape[1], COLOR_ROWS):
        rows = torch.as_tensor(features[:, top : top + COLOR_ROWS], device=device).float()
        color = torch.tensordot(rows, weights, ([0], [0])) + offset
        parts.append(color.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts)
