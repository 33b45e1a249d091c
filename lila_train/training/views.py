"""The two views of a pair and what is told of them, cut in batch on the training device (docs/method.md, "Cues")."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lila_cues.pamr import refine, three_scales
from lila_train.training.cues import Told, told_by
from lila_train.training.pairs import PairBatch
from lila_train.training.settings import Method


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
def cut_views(batch: PairBatch, method: Method) -> tuple[View, View]:
    """The context and the query view, their cues under one standardisation."""
    told = [cue.tell(batch, method) for cue in told_by(method)]
    return _view(0, batch, method, [both[0] for both in told]), _view(1, batch, method, [both[1] for both in told])


def _view(number: int, batch: PairBatch, method: Method, told: list[Told]) -> View:
    frame = batch.rgb[:, method.frames[number]].float() / 255
    image = batch.regions(number).resample_image(frame, method.view_size)
    return View(
        image=image,
        cues=torch.cat([cue.maps for cue in told], dim=1),
        valid=torch.cat([cue.valid for cue in told], dim=1),
        confidence=torch.cat([torch.ones_like(image[:, :1]), *(cue.confidence for cue in told)], dim=1),
        channels=batch.channels,
    )
