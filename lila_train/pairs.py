"""Pairs of frames with their cues, from the store to the training device.

A loader process only reads and decompresses; cutting, resizing and masking are done in batch on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

import stores
from lila_train.sampling import Box, Draw, PairPool, ViewRanges, draw, generator
from lila_train.views import Regions

Size = tuple[int, int]
CUES = ("rgb", "depth", "flow_forward", "flow_backward", "features")


@dataclass(frozen=True)
class PairBatch:
    """Pairs as stored, index 0 of the second axis being the context frame t, index 1 the query frame t+Δ.

    rgb: b×2×3×y×x uint8; depth: b×2×h×w relative inverse depth; flow_forward (t→t+Δ), flow_backward: b×2×h×w pixels of
    their grid, channel 0 to the right, 1 down; features: b×2×k×h×w; boxes: b×2×4 (top, left, side, mirrored) in pixels
    of the base crop; clips: b indices in the store.
    """

    rgb: Tensor
    depth: Tensor
    flow_forward: Tensor
    flow_backward: Tensor
    features: Tensor
    boxes: Tensor
    clips: Tensor

    def to(self, device: torch.device) -> PairBatch:
        """The same on `device`, copied without waiting where the memory is pinned."""
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def pin_memory(self) -> PairBatch:
        """The same in page-locked memory; DataLoader calls this by name."""
        return replace(self, **{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})

    def whole(self) -> Tensor:
        """Per pair, whether every cue is a finite number: b booleans."""
        cues = (self.depth, self.flow_forward, self.flow_backward, self.features)
        return torch.stack([torch.isfinite(cue).flatten(1).all(1) for cue in cues]).all(0)

    def regions(self, frame: int) -> Regions:
        """The boxes of the context (0) or query (1) frames."""
        top, left, side, mirrored = self.boxes[:, frame].unbind(-1)
        return Regions(top, left, side, mirrored.bool(), (self.rgb.shape[-2], self.rgb.shape[-1]))


@dataclass(frozen=True)
class PairSettings:
    """What a batch is made of: how many pairs, how far apart, how many of the stored channels, which regions."""

    seed: int
    batch_size: int
    max_gap: int
    channels: int
    ranges: ViewRanges


class PairDataset(Dataset[PairBatch]):
    """Pairs by position: item n is slot n mod batch size of step n div batch size."""

    def __init__(self, path: str, settings: PairSettings) -> None:
        self.path = path
        self.settings = settings
        self._store: stores.CueStore | None = None
        self._pool: PairPool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "settings": self.settings, "_store": None, "_pool": None}

    def __getitem__(self, position: int) -> PairBatch:
        store, pool = self._opened()
        step, slot = divmod(position, self.settings.batch_size)
        geometry = store.spec.geometry
        drawn = draw(
            generator(self.settings.seed, step, slot),
            pool,
            self.settings.ranges,
            geometry.base,
            stored=geometry.channels,
            kept=self.settings.channels,
        )
        return _as_batch(store.pair(drawn.clip, drawn.pair, cues=CUES), drawn)

    def _opened(self) -> tuple[stores.CueStore, PairPool]:
        if self._store is None or self._pool is None:
            store = stores.open(self.path)
            self._store = store
            self._pool = PairPool(
                store.complete_clips(), lambda clip: store.read("pair_gap", clip), self.settings.max_gap
            )
        return self._store, self._pool


def _as_batch(pair: stores.PairCues, drawn: Draw) -> PairBatch:
    rgb, depth, forward, backward, features = (_asked_for(getattr(pair, cue)) for cue in CUES)
    boxes = np.array([_row(drawn.context), _row(drawn.query)], dtype=np.int64)
    return PairBatch(
        rgb=rgb.permute(0, 3, 1, 2)[None],
        depth=depth[None],
        flow_forward=forward[None],
        flow_backward=backward[None],
        features=features[:, list(drawn.channels)][None],
        boxes=torch.from_numpy(boxes)[None],
        clips=torch.tensor([drawn.clip]),
    )


def _asked_for(cue: np.ndarray | None) -> Tensor:
    assert cue is not None
    return torch.from_numpy(cue)


def _row(box: Box) -> tuple[int, int, int, int]:
    return box.top, box.left, box.side, int(box.mirrored)


def collate(items: Sequence[PairBatch]) -> PairBatch:
    """One batch of several."""
    return PairBatch(**{f.name: torch.cat([getattr(item, f.name) for item in items]) for f in fields(PairBatch)})


@dataclass(frozen=True)
class Share:
    """The slots of every batch that one rank computes: slot = rank, rank + ranks, …"""

    rank: int = 0
    ranks: int = 1


class Positions(Sampler[list[int]]):
    """The positions of one rank's share of steps [first, last), a list per step."""

    def __init__(self, batch_size: int, first: int, last: int, share: Share) -> None:
        self.batch_size = batch_size
        self.steps = range(first, last)
        self.share = share

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            start = step * self.batch_size
            yield list(range(start + self.share.rank, start + self.batch_size, self.share.ranks))


def load_pairs(
    path: str, settings: PairSettings, *, first_step: int, last_step: int, processes: int, share: Share, pin: bool
) -> DataLoader[PairBatch]:
    """Batches of steps [first_step, last_step), read ahead by `processes` processes (0: in this one)."""
    return DataLoader(
        PairDataset(path, settings),
        batch_sampler=Positions(settings.batch_size, first_step, last_step, share),
        collate_fn=collate,
        num_workers=processes,
        pin_memory=pin,
        multiprocessing_context="spawn" if processes else None,
        prefetch_factor=4 if processes else None,
    )
