"""The two views of a pair: square regions of frames and cue maps, cropped and resized in batch on the training device.

A region is given in pixels of the base crop (docs/method.md, "Cues"). RGB is cropped at whole pixels and resized with
antialiasing, as if each crop were resized alone; cue maps, whose grid is coarser, are sampled bilinearly at the same
places.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lila_cues.pamr import refine, three_scales
from lila_train.training.config import TrainConfig
from lila_train.training.data import PairBatch
from lila_train.training.losses import Reduce, count_valid
from lila_train.training.targets import active_cues, moments, pair_targets, standardize


@dataclass(frozen=True)
class View:
    """One view of a batch, s = crop size in pixels: the image in [0, 1] and the targets of all cues, concatenated.

    valid: entries that the loss counts. weight: masks of all cues, whose product weights a cell of the ridge solve.
    counts: numbers of valid entries by part of a loss term (losses.count_valid), of all ranks' views.
    channels: the encoder channels among the targets. With distilled=online their maps join late, by `with_features`;
    `valid` has their channels from the beginning.
    """

    image: Float[Tensor, "b 3 s s"]
    target: Float[Tensor, "b c s s"]
    valid: Bool[Tensor, "b k s s"]
    weight: Float[Tensor, "b m s s"]
    channels: Int[Tensor, "b f"]
    counts: Float[Tensor, " t"]

    def __getitem__(self, rows: slice) -> View:
        names = ("image", "target", "valid", "weight", "channels")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def with_features(self, tokens: Float[Tensor, "b e h w"]) -> View:
        """Return the view with its own tokens as targets: the sampled channels, refined by PAMR, L2-normalized."""
        chosen = tokens.gather(1, self.channels[..., None, None].expand(-1, -1, *tokens.shape[-2:]))
        size = self.image.shape[-1]
        refined = refine(chosen, self.image, three_scales((size, size)))
        return replace(self, target=torch.cat((self.target, F.normalize(refined, dim=1)), dim=1))


@torch.no_grad()
def make_views(
    batch: PairBatch, config: TrainConfig, reduce: Reduce = lambda statistics: statistics
) -> tuple[View, View]:
    """Return the context and the query view.

    `reduce` sums statistics over ranks, in one call: cues are standardized, and valid entries counted, over all ranks.
    """
    cues = active_cues(config)
    crops = Crops.of_view(batch, 0, config.crop_size), Crops.of_view(batch, 1, config.crop_size)
    sample_maps = crops[0].sample_map, crops[1].sample_map
    targets = [pair_targets(cue, batch, config.frames, sample_maps) for cue in cues]
    masks = [[target.mask for target in own] for own in zip(*targets, strict=True)]
    counted = [[(m > 0).expand(-1, cue.channels, -1, -1) for cue, m in zip(cues, own, strict=True)] for own in masks]
    valid = [torch.cat(own, dim=1) for own in counted]
    counts = torch.stack([count_valid(mask) for mask in valid])
    sums = {c.name: moments([t.map for t in pair]) for c, pair in zip(cues, targets, strict=True) if c.standardized}
    statistics = reduce(torch.cat([counts.double().flatten(), *sums.values()]))
    reduced, *of_cues = statistics.split([counts.numel(), *(len(three) for three in sums.values())])
    counts, sums = reduced.view_as(counts).float(), dict(zip(sums, of_cues, strict=True))
    views = []
    for number, (frame, crop) in enumerate(zip(config.frames, crops, strict=True)):
        image = crop.resize_image(batch.rgb[:, frame].float() / 255)
        maps = [
            standardize(pair[number].map, sums[cue.name]) if cue.standardized else pair[number].map
            for cue, pair in zip(cues, targets, strict=True)
        ]
        weight = torch.cat(masks[number], dim=1)
        views.append(View(image, torch.cat(maps, dim=1), valid[number], weight, batch.channels, counts[number]))
    return views[0], views[1]


@dataclass(frozen=True)
class Crops:
    """A square of each frame of a batch, in pixels of a base crop of `base` = (y, x), and the size to resize it to."""

    top: Int[Tensor, " b"]
    left: Int[Tensor, " b"]
    side: Int[Tensor, " b"]
    hflip: Bool[Tensor, " b"]
    base: tuple[int, int]
    size: int

    @classmethod
    def of_view(cls, batch: PairBatch, view: int, size: int) -> Crops:
        """Return the crops of the context (0) or the query (1) views."""
        top, left, side, hflip = batch.boxes[:, view].unbind(-1)
        return cls(top, left, side, hflip.bool(), (batch.rgb.shape[-2], batch.rgb.shape[-1]), size)

    def resize_image(self, images: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c s s"]:
        """Return the regions of images on the base crop's own grid, resized with antialiasing."""
        rows = _antialiased(self.top, self.side, images.shape[-2], self.size)
        columns = _antialiased(self.left, self.side, images.shape[-1], self.size)
        return self._apply(images, rows, columns)

    def sample_map(self, maps: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c s s"]:
        """Return the regions of maps on any grid over the base crop, sampled bilinearly with a repeated border."""
        rows = _bilinear(self.top, self.side, self.base[0], maps.shape[-2], self.size)
        columns = _bilinear(self.left, self.side, self.base[1], maps.shape[-1], self.size)
        return self._apply(maps, rows, columns)

    def _apply(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        columns = torch.where(self.hflip[:, None, None], columns.flip(1), columns)
        return rows.to(x.dtype).unsqueeze(1) @ x @ columns.to(x.dtype).mT.unsqueeze(1)


def _centers(start: Tensor, side: Tensor, size: int) -> Tensor:
    """Return the centers of `size` output pixels in input pixels, b×size; pixel i covers [i, i + 1)."""
    steps = torch.arange(size, device=start.device, dtype=torch.float32) + 0.5
    return start[:, None] + steps * (side[:, None] / size)


def _antialiased(start: Tensor, side: Tensor, length: int, size: int) -> Tensor:
    """Return rows of triangle weights, b×size×length: a crop to [start, start + side), resized with antialiasing."""
    radius = (side / size).clamp(min=1)[:, None, None]
    pixels = torch.arange(length, device=start.device, dtype=torch.float32)
    distance = (pixels + 0.5 - _centers(start, side, size)[..., None]).abs()
    inside = (pixels >= start[:, None]) & (pixels < (start + side)[:, None])
    weights = (1 - distance / radius).clamp(min=0) * inside[:, None]
    return weights / weights.sum(-1, keepdim=True)


def _bilinear(start: Tensor, side: Tensor, base: int, length: int, size: int) -> Tensor:
    """Return rows of two weights, b×size×length: bilinear sampling of a map with `length` cells over `base` pixels."""
    position = (_centers(start, side, size) * (length / base) - 0.5).clamp(0, length - 1)
    cells = torch.arange(length, device=start.device, dtype=torch.float32)
    return (1 - (cells - position[..., None]).abs()).clamp(min=0)
