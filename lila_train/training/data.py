"""Pairs of frames with their cues, from the store to the training device.

A loader process only reads and decompresses; cropping, resizing and masking are done in batch on the device (crops.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

import stores
from lila_train.training.config import TrainConfig
from lila_train.training.distributed import Rank, ignore_signals
from lila_train.training.sampling import PairPool, draw_sample, generator
from stores.errors import LilaError


@dataclass(frozen=True)
class PairBatch:
    """Pairs as stored; index 0 of the second axis is the frame t, index 1 the frame t+Δ.

    Attributes:
        rgb: b×2×3×y×x uint8.
        boxes: b×2×4 (top, left, side, hflip) of the context and the query view, in pixels of the base crop.
        channels: b×k indices of the encoder's channels.
        clips: b indices of clips in the store.
        cues: by the store's names. depth b×2×h×w, relative inverse depth; flow_forward (t→t+Δ) and flow_backward
            b×2×h×w in pixels of their grid, channel 0 to the right, 1 down; features or features_raw b×2×k×h×w; extra
            cues b×2×c×h×w.
    """

    rgb: Tensor
    boxes: Tensor
    channels: Tensor
    clips: Tensor
    cues: Mapping[str, Tensor]

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on `device`, copied asynchronously from pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> PairBatch:
        """Return the batch in page-locked memory; called by DataLoader."""
        return self._map(Tensor.pin_memory)

    def finite(self) -> Bool[Tensor, " b"]:
        """Return for each pair whether all of its cues are finite."""
        finite = [torch.isfinite(cue).flatten(1).all(1) for cue in self.cues.values()]
        return torch.stack([torch.ones_like(self.clips, dtype=torch.bool), *finite]).all(0)

    def _map(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        cues = {name: change(cue) for name, cue in self.cues.items()}
        return PairBatch(change(self.rgb), change(self.boxes), change(self.channels), change(self.clips), cues)


def collate(items: Sequence[PairBatch]) -> PairBatch:
    """Concatenate batches."""
    rgb, boxes, channels, clips = (
        torch.cat([getattr(item, name) for item in items]) for name in ("rgb", "boxes", "channels", "clips")
    )
    cues = {name: torch.cat([item.cues[name] for item in items]) for name in items[0].cues}
    return PairBatch(rgb, boxes, channels, clips, cues)


@dataclass(frozen=True, eq=False)
class PairDataset(Dataset[PairBatch]):
    """Training pairs by position (step, slot), as batches of one. The store is opened again in every loader process.

    Attributes:
        path: the store.
        arrays: the store's arrays to read beside rgb.
        encoder_width: number of channels to draw from with distilled=online.
        clips: indices of the clips to draw from.
    """

    path: str
    config: TrainConfig
    arrays: Sequence[str]
    encoder_width: int
    clips: np.ndarray

    @cached_property
    def _opened(self) -> tuple[stores.CueStore, PairPool]:
        store = stores.open(self.path)
        return store, PairPool(self.clips, partial(store.read, "pair_gap"), self.config.max_gap)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __getitem__(self, position: tuple[int, int]) -> PairBatch:
        config, arrays = self.config, ("rgb", *self.arrays)
        store, pool = self._opened
        geometry = store.spec.geometry
        online = config.distilled == "online"
        stored_channels = self.encoder_width if online else geometry.channels
        sample = draw_sample(generator(config.seed, *position), pool, config, geometry.base, stored_channels)
        pair = store.pair(sample.clip, sample.pair, arrays, None if online else sample.channels)
        channels = np.array(sample.channels) if pair.feature_channels is None else pair.feature_channels
        cues = {name: torch.from_numpy(pair[name])[None] for name in arrays}
        views = sample.context, sample.query
        boxes = [(box.top, box.left, box.side, int(box.hflip != sample.base_hflip)) for box in views]
        return PairBatch(
            rgb=cues.pop("rgb").permute(0, 1, 4, 2, 3),
            boxes=torch.tensor([boxes]),
            channels=torch.from_numpy(channels.astype(np.int64))[None],
            clips=torch.tensor([sample.clip]),
            cues=cues,
        )


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The positions (step, slot) of one rank, a list per step: slot = rank, rank + world size, …"""

    def __init__(self, steps: range, batch_size: int, rank: Rank) -> None:
        if batch_size % rank.world_size:
            raise LilaError(f"a batch of {batch_size} pairs cannot be split evenly over {rank.world_size} ranks")
        self.steps, self.slots = steps, range(rank.rank, batch_size, rank.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            yield [(step, slot) for slot in self.slots]


def load_pairs(
    dataset: PairDataset, steps: range, rank: Rank | None = None, num_workers: int = 0
) -> DataLoader[PairBatch]:
    """Return the batches of `steps` on this rank (default: a single process), prefetched by worker processes."""
    rank = rank or Rank()
    return DataLoader(
        dataset,
        batch_sampler=StepSampler(steps, dataset.config.batch_size, rank),
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=ignore_signals,
        pin_memory=rank.device.type == "cuda",
        multiprocessing_context="spawn" if num_workers else None,
        prefetch_factor=4 if num_workers else None,
    )
