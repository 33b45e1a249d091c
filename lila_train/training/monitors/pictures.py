"""Pictures of a run while it is under way: the query view's cues, what is read off our features, and the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from lila_train.training.cues import told_by
from lila_train.training.monitors.board import Board
from lila_train.training.trainer import Trainer
from lila_train.training.views import cut_views
from stores.pictures import pca_basis, pca_picture, write_png

SHOWN = 4  # pairs
MARGIN = 6  # px of white between pictures

Picture = UInt8[np.ndarray, "_ _ 3"]
TITLE_HEIGHT = 14  # px


@dataclass(frozen=True)
class PictureMonitor:
    """Writes pictures/step-N.png: a row for each of the same four pairs of the store.

    From left to right: context view, query view, the features of both in one basis, then each cue of the query as it
    is and as it is read off our features.
    """

    every: int
    board: Board

    def look(self, trainer: Trainer) -> None:
        """Draw the pairs with the decoder as it stands."""
        picture = _stacked([_titles(trainer), *(_side_by_side(pictures) for pictures in _seen(trainer))])
        path = trainer.folder.root / "pictures" / f"step-{trainer.step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        write_png(path, picture)
        self.board.picture("cues", picture, trainer.step)


def _titles(trainer: Trainer) -> Picture:
    """What each column shows."""
    method = trainer.settings.method
    told = [title for cue in told_by(method) for title in (cue.name, "read off")]
    names = ["context", "query", "our features", "", *told]
    image = Image.new("RGB", (len(names) * (method.view_size + MARGIN) - MARGIN, TITLE_HEIGHT), "white")
    for n, name in enumerate(names):
        ImageDraw.Draw(image).text((n * (method.view_size + MARGIN), 0), name, fill="black")
    return np.array(image)


def _seen(trainer: Trainer) -> list[list[Picture]]:
    batch = trainer.first_pairs(SHOWN)
    context, query = cut_views(batch, trainer.settings.method)
    of_context, of_query, read, query = trainer.learner.predicted(context, query)
    return [
        _row(_One(context.image[n], query.image[n], of_context[n], of_query[n], query.cues[n], read[n]), trainer)
        for n in range(len(batch.clips))
    ]


@dataclass(frozen=True)
class _One:
    """What is drawn of one pair, channels first."""

    context: Tensor
    query: Tensor
    of_context: Tensor
    of_query: Tensor
    cues: Tensor
    read: Tensor


def _row(pair: _One, trainer: Trainer) -> list[Picture]:
    features = np.concatenate([_array(pair.of_context), _array(pair.of_query)], axis=2)
    both = pca_picture(features, pca_basis(features.reshape(len(features), -1).T))
    size = both.shape[0]
    shown = [_photo(pair.context), _photo(pair.query), both[:, :size], both[:, size:]]
    true, read = _array(pair.cues), _array(pair.read)
    at = 0
    method = trainer.settings.method
    for cue in told_by(method):
        channels = slice(at, at + cue.channels(method))
        shown += cue.draw(true[channels], read[channels])
        at = channels.stop
    return shown


def _photo(image: Tensor) -> Picture:
    return np.rint(255 * _array(image).clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _side_by_side(pictures: Sequence[Picture]) -> Picture:
    height = pictures[0].shape[0]
    gap = np.full((height, MARGIN, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def _stacked(rows: Sequence[Picture]) -> Picture:
    gap = np.full((MARGIN, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, gap)][:-1], axis=0)
