"""Pairs of frames with their cues, from the store to the training device.

A loader process only reads and decompresses; cutting, resizing and masking are done in batch on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

import stores
from lila_train.training.config import FEATURES, ObjectiveConfig
from lila_train.training.crops import Regions
from lila_train.training.distributed import Rank, ignore_ctrl_c
from lila_train.training.sampling import Box, Draw, PairPool, draw, generator
from lila_train.training.targets import active_cues
from stores.errors import LilaError


@dataclass(frozen=True)
class PairBatch:
    """Pairs as stored, index 0 of the second axis being the frame t, index 1 the frame t+Δ.

    rgb: b×2×3×y×x uint8; boxes: b×2×4 (top, left, side, mirrored) of the context and the query view, in pixels of the
    base crop; channels: b×k indices among the encoder's channels; clips: b indices in the store; cues: by the store's
    names, depth b×2×h×w, relative inverse depth; flow_forward (t→t+Δ) and flow_backward b×2×h×w, pixels of their grid,
    channel 0 to the right, 1 down; features or features_raw b×2×k×h×w; extra cues b×2×c×h×w.
    """

    rgb: Tensor
    boxes: Tensor
    channels: Tensor
    clips: Tensor
    cues: Mapping[str, Tensor]

    def to(self, device: torch.device) -> PairBatch:
        """The same on `device`, copied without waiting where the memory is pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> PairBatch:
        """The same in page-locked memory; DataLoader calls this by name."""
        return self._each(Tensor.pin_memory)

    def whole(self) -> Bool[Tensor, " b"]:
        """Per pair, whether every cue is a finite number."""
        finite = [torch.isfinite(cue).flatten(1).all(1) for cue in self.cues.values()]
        return torch.stack([torch.ones_like(self.clips, dtype=torch.bool), *finite]).all(0)

    def regions(self, view: int) -> Regions:
        """The boxes of the context (0) or query (1) views."""
        top, left, side, mirrored = self.boxes[:, view].unbind(-1)
        return Regions(top, left, side, mirrored.bool(), (self.rgb.shape[-2], self.rgb.shape[-1]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        cues = {name: change(cue) for name, cue in self.cues.items()}
        return PairBatch(change(self.rgb), change(self.boxes), change(self.channels), change(self.clips), cues)


def collate(items: Sequence[PairBatch]) -> PairBatch:
    """One batch of several."""
    rgb, boxes, channels, clips = (
        torch.cat([getattr(item, name) for item in items]) for name in ("rgb", "boxes", "channels", "clips")
    )
    cues = {name: torch.cat([item.cues[name] for item in items]) for name in items[0].cues}
    return PairBatch(rgb, boxes, channels, clips, cues)


@dataclass(frozen=True)
class PairSettings:
    """What a batch is made of.

    encoder_width: the number of channels that are drawn from when distilling online. computed: the cues that are not
    read, because the step computes them from the frames.
    """

    seed: int
    batch_size: int
    method: ObjectiveConfig
    encoder_width: int
    computed: frozenset[str] = frozenset()

    @property
    def arrays(self) -> tuple[str, ...]:
        """The arrays of the store that are read, each once."""
        read = [cue for cue in active_cues(self.method) if cue.name not in self.computed]
        return tuple(dict.fromkeys(["rgb", *(name for cue in read for name in cue.arrays(self.method))]))


class PairDataset(Dataset[PairBatch]):
    """Pairs by position: item n is slot n mod batch size of step n div batch size."""

    def __init__(self, path: str, settings: PairSettings) -> None:
        self.path = path
        self.settings = settings
        self._opened: tuple[stores.CueStore, PairPool] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def __getitem__(self, position: int) -> PairBatch:
        store, pool = self._open()
        step, slot = divmod(position, self.settings.batch_size)
        rng = generator(self.settings.seed, step, slot)
        method, geometry = self.settings.method, store.spec.geometry
        online = method.distilled == "online"
        stored = self.settings.encoder_width if online else geometry.channels
        drawn = draw(rng, pool, method.views, geometry.base, stored=stored, kept=method.channels)
        kept = None if online else drawn.stored_channels
        pair = store.pair(drawn.clip, drawn.pair, self.settings.arrays, kept)
        channels = pair.feature_channels
        if channels is None and FEATURES in self.settings.computed:
            channels = store.read("feature_channels", drawn.clip)[list(drawn.stored_channels)]
        elif channels is None:
            channels = np.array(drawn.stored_channels)
        return _as_batch(pair, drawn, self.settings.arrays, channels)

    def _open(self) -> tuple[stores.CueStore, PairPool]:
        if self._opened is None:
            store = stores.open(self.path)

            def gaps_of(clip: int) -> np.ndarray:
                return store.read("pair_gap", clip)

            self._opened = store, PairPool(store.complete_clips(), gaps_of, self.settings.method.max_gap)
        return self._opened


def _as_batch(pair: stores.PairCues, drawn: Draw, arrays: Sequence[str], channels: np.ndarray) -> PairBatch:
    """`channels`: the indices in the encoder of those that were drawn."""
    cues = {name: torch.from_numpy(pair[name])[None] for name in arrays}
    return PairBatch(
        rgb=cues.pop("rgb").permute(0, 1, 4, 2, 3),
        boxes=torch.tensor([[_row(drawn.context), _row(drawn.query)]]),
        channels=torch.from_numpy(channels.astype(np.int64))[None],
        clips=torch.tensor([drawn.clip]),
        cues=cues,
    )


def _row(box: Box) -> tuple[int, int, int, int]:
    return box.top, box.left, box.side, int(box.mirrored)


class Positions(Sampler[list[int]]):
    """The positions of one rank's share of steps [first, last), a list per step."""

    def __init__(self, batch_size: int, first: int, last: int, rank: Rank) -> None:
        if batch_size % rank.world_size:
            raise LilaError(f"a batch of {batch_size} pairs cannot be shared out evenly over {rank.world_size} ranks")
        self.batch_size = batch_size
        self.steps = range(first, last)
        self.rank = rank

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            start = step * self.batch_size
            yield list(range(start + self.rank.rank, start + self.batch_size, self.rank.world_size))


def load_pairs(
    path: str, settings: PairSettings, *, first_step: int, last_step: int, processes: int, rank: Rank, pin: bool
) -> DataLoader[PairBatch]:
    """Batches of steps [first_step, last_step), read ahead by `processes` processes (0: in this one)."""
    return DataLoader(
        PairDataset(path, settings),
        batch_sampler=Positions(settings.batch_size, first_step, last_step, rank),
        collate_fn=collate,
        num_workers=processes,
        worker_init_fn=ignore_ctrl_c,
        pin_memory=pin,
        multiprocessing_context="spawn" if processes else None,
        prefetch_factor=4 if processes else None,
    )
