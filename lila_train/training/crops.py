"""Square regions of frames and their cues, cut and resized in batch on the training device (docs/method.md, "Cues").

A region is given in pixels of the base crop. RGB is cut at whole pixels and resized with antialiasing, as if each crop
were resized on its own; cue maps, whose grid is coarser, are sampled bilinearly at the same places.

The two views of a pair and what is told of them, cut in batch on the training device (docs/method.md, "Cues").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lila_cues.pamr import refine, three_scales
from lila_train.training.config import ObjectiveConfig
from lila_train.training.targets import CueTarget, active_cues

if TYPE_CHECKING:
    from lila_train.training.data import PairBatch


@dataclass(frozen=True)
class Regions:
    """A square of each frame of a batch, in pixels of a base crop of `base` = (y, x), and whether it is mirrored."""

    top: Int[Tensor, " b"]
    left: Int[Tensor, " b"]
    side: Int[Tensor, " b"]
    mirrored: Bool[Tensor, " b"]
    base: tuple[int, int]

    def resample_image(self, images: Float[Tensor, "b c y x"], size: int) -> Float[Tensor, "b c size size"]:
        """The region of an image on the base crop's own grid, antialiased, `size` pixels a side."""
        vertical = _antialiased(self.top, self.side, images.shape[-2], size)
        horizontal = _antialiased(self.left, self.side, images.shape[-1], size)
        return self._apply(images, vertical, horizontal)

    def resample_map(self, maps: Float[Tensor, "b c y x"], size: int) -> Float[Tensor, "b c size size"]:
        """The region of a map on any grid that covers the base crop, sampled bilinearly, the border repeated."""
        vertical = _bilinear(self.top, self.side, self.base[0], maps.shape[-2], size)
        horizontal = _bilinear(self.left, self.side, self.base[1], maps.shape[-1], size)
        return self._apply(maps, vertical, horizontal)

    def _apply(self, x: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
        horizontal = torch.where(self.mirrored[:, None, None], horizontal.flip(1), horizontal)
        return vertical.to(x.dtype).unsqueeze(1) @ x @ horizontal.to(x.dtype).mT.unsqueeze(1)


def _centres(start: Tensor, side: Tensor, size: int) -> Tensor:
    """Where the centres of `size` output pixels lie, in input pixels, b×size; pixel i covers [i, i+1)."""
    steps = torch.arange(size, device=start.device, dtype=torch.float32) + 0.5
    return start[:, None] + steps * (side[:, None] / size)


def _antialiased(start: Tensor, side: Tensor, length: int, size: int) -> Tensor:
    """Rows of triangle weights, b×size×length: a crop to [start, start + side), resized with antialiasing."""
    radius = (side / size).clamp(min=1)[:, None, None]
    pixels = torch.arange(length, device=start.device, dtype=torch.float32)
    distance = (pixels + 0.5 - _centres(start, side, size)[..., None]).abs()
    weights = (1 - distance / radius).clamp(min=0)
    inside = (pixels >= start[:, None]) & (pixels < (start + side)[:, None])
    weights = weights * inside[:, None]
    return weights / weights.sum(-1, keepdim=True)


def _bilinear(start: Tensor, side: Tensor, base: int, length: int, size: int) -> Tensor:
    """Rows of two weights each, b×size×length: bilinear reading of a map whose `length` cells cover `base` pixels."""
    position = _centres(start, side, size) * (length / base) - 0.5
    position = position.clamp(0, length - 1)
    cells = torch.arange(length, device=start.device, dtype=torch.float32)
    return (1 - (cells - position[..., None]).abs()).clamp(min=0)


@dataclass(frozen=True)
class View:
    """A view of one frame of a batch: the image in [0, 1], its cue map G, where it is valid, how much a cell counts.

    The channels of `cues` are those of the run's cues, one after the other (`cues`). `channels` are the
    indices in the encoder of the features among them; distilled online they join late, by `with_features`.
    """

    image: Float[Tensor, "b 3 s s"]
    cues: Float[Tensor, "b c s s"]
    valid: Bool[Tensor, "b k s s"]
    confidence: Float[Tensor, "b m s s"]
    channels: Int[Tensor, "b f"]

    def part(self, rows: slice) -> View:
        """Some of the batch."""
        return View(*(getattr(self, name)[rows] for name in ("image", "cues", "valid", "confidence", "channels")))

    def with_features(self, grid: Float[Tensor, "b e h w"]) -> View:
        """The view with its own tokens as a cue: the chosen channels, refined by PAMR, L2-normalised per pixel."""
        chosen = grid.gather(1, self.channels[..., None, None].expand(-1, -1, *grid.shape[-2:]))
        size = self.image.shape[-1]
        refined = refine(chosen, self.image, three_scales((size, size)))
        return replace(self, cues=torch.cat((self.cues, F.normalize(refined, dim=1)), dim=1))


@torch.no_grad()
def cut_views(batch: PairBatch, method: ObjectiveConfig) -> tuple[View, View]:
    """The context and the query view, their cues under one standardisation."""
    told = [cue.targets(batch, method) for cue in active_cues(method)]
    return _view(0, batch, method, [both[0] for both in told]), _view(1, batch, method, [both[1] for both in told])


def _view(number: int, batch: PairBatch, method: ObjectiveConfig, told: list[CueTarget]) -> View:
    frame = batch.rgb[:, method.frames[number]].float() / 255
    image = batch.regions(number).resample_image(frame, method.view_size)
    return View(
        image=image,
        cues=torch.cat([cue.maps for cue in told], dim=1),
        valid=torch.cat([cue.valid for cue in told], dim=1),
        confidence=torch.cat([torch.ones_like(image[:, :1]), *(cue.confidence for cue in told)], dim=1),
        channels=batch.channels,
    )
