"""Pictures to features and to colours, on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lila_train.extraction.formats import Features
from lila_train.extraction.settings import Settings
from lila_train.inference.images import resized
from lila_train.inference.model import WHOLE_PIXELS, Lila
from stores.pictures import Basis, Picture

_BASIS_PIXELS = 20_000
_ROWS = 512  # of a large image that are coloured at a time
_TILE_PATCHES = 64


@dataclass(frozen=True)
class Network:
    """The model with the settings that it runs under."""

    model: Lila
    settings: Settings

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.model.device

    @torch.inference_mode()
    def features(self, pictures: Sequence[Picture]) -> Float[Tensor, "b d h w"]:
        """Features of pictures of one size, in the type that is written, on the device."""
        images = torch.from_numpy(np.stack(pictures)).movedim(-1, 1).to(self.device)
        with self._precision():
            return self.model(images).to(self._dtype)

    @torch.inference_mode()
    def tiled_features(self, picture: Picture, scratch: Path) -> Features:
        """Features of a picture that is cut into tiles, in a file of `scratch`, not in memory."""
        shape = (self.model.decoder.widths.out, *picture.shape[:2])
        out = np.lib.format.open_memmap(scratch / "features.npy", "w+", np.dtype(self.settings.dtype), shape)
        tile = self.settings.tile or _TILE_PATCHES * self.model.encoder.patch_size
        with self._precision():
            self.model.features(picture, tile=tile, overlap=self.settings.overlap, out=out)
        return out

    def needs_tiles(self, picture: Picture) -> bool:
        """Whether it is larger than a tile, or than what is computed in one piece."""
        height, width = picture.shape[:2]
        tile = self.settings.tile
        return height * width > WHOLE_PIXELS if tile is None else max(height, width) > tile

    def resized(self, picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
        """At the size that the settings ask for."""
        return resized(picture, self.settings.size)

    def _precision(self) -> AbstractContextManager[object]:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.settings.precision))

    @property
    def _dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.settings.dtype)
        return found


class Colours:
    """Features as red, green and blue, in one basis."""

    def __init__(self, basis: Basis, device: torch.device) -> None:
        scale = 255 / np.maximum(basis.high - basis.low, 1e-9)
        offset = -(basis.mean @ basis.axes + basis.low) * scale
        self._axes = torch.tensor(basis.axes * scale, dtype=torch.float32, device=device)
        self._offset = torch.tensor(offset, dtype=torch.float32, device=device)

    @torch.inference_mode()
    def of(self, features: Features | Float[Tensor, "d h w"]) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of a d×h×w map, 512 rows at a time; values beyond the basis' range are cut off."""
        parts = []
        for top in range(0, features.shape[1], _ROWS):
            rows = torch.as_tensor(features[:, top : top + _ROWS], device=self._axes.device).float()
            colour = torch.tensordot(rows, self._axes, ([0], [0])) + self._offset
            parts.append(colour.round_().clamp_(0, 255).to(torch.uint8).cpu().numpy())
        return np.concatenate(parts)


def spread(features: Features) -> Float[np.ndarray, "n d"]:
    """Some pixels of a map, spread over it."""
    pixels = features.reshape(len(features), -1)
    return np.asarray(pixels[:, :: max(1, pixels.shape[1] // _BASIS_PIXELS)], np.float32).T
