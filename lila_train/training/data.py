"""Pairs of frames with their cues, from the store to the training device.

A loader process only reads and decompresses: it hands on integers as stored. They are decoded on the device, where
cropping, resizing and masking are done in batch too (crops.py).
"""

from __future__ import annotations

import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from traceback import walk_tb
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import stores
from lila_train.training.config import TrainConfig
from lila_train.training.distributed import Rank, ignore_signals
from lila_train.training.sampling import PairPool, draw_sample, generator, window_clips, window_steps
from stores.encodings import decode
from stores.errors import LilaError
from stores.spec import ArraySpec

_PREFETCH = 2  # batches that a loader process has ready
_SHARED_MEMORY = Path("/dev/shm")

Stored = dict[str, Tensor]
"""Pairs as a loader gives them: the store's arrays by name, and what else PairBatch holds; a first axis of pairs."""


@dataclass(frozen=True)
class PairBatch:
    """Decoded pairs; index 0 of the second axis is the frame t, index 1 the frame t+Δ.

    Attributes:
        rgb: b×2×3×y×x uint8.
        boxes: b×2×4 (top, left, side, hflip) of the context and the query view, in pixels of the base crop.
        base_hflip: b, whether the base crop of a pair is mirrored; a box's hflip includes it.
        channels: b×k indices of the encoder's channels.
        clips: b indices of clips in the store.
        cues: by the store's names. depth b×2×h×w, relative inverse depth; flow_forward (t→t+Δ) and flow_backward
            b×2×h×w in pixels of their grid, channel 0 to the right, 1 down; features or features_raw b×2×k×h×w; extra
            cues b×2×c×h×w.
    """

    rgb: Tensor
    boxes: Tensor
    base_hflip: Tensor
    channels: Tensor
    clips: Tensor
    cues: Mapping[str, Tensor]

    @classmethod
    def decode(cls, stored: Stored, arrays: Mapping[str, ArraySpec]) -> PairBatch:
        """Return the pairs decoded, on their device."""
        cues = {
            name: decode(arrays[name].encoding, values, stored.get(f"{name}_scale"))
            for name, values in stored.items()
            if name in arrays and not name.endswith("_scale")
        }
        rgb = cues.pop("rgb").permute(0, 1, 4, 2, 3)
        drawn = {name: stored[name] for name in ("boxes", "base_hflip", "channels", "clips")}
        return cls(rgb=rgb, cues=cues, **drawn)

    def finite(self) -> Bool[Tensor, " b"]:
        """Return for each pair whether all of its cues are finite."""
        finite = [torch.isfinite(cue).flatten(1).all(1) for cue in self.cues.values()]
        return torch.stack([torch.ones_like(self.clips, dtype=torch.bool), *finite]).all(0)


@dataclass(frozen=True, eq=False)
class PairDataset(Dataset[dict[str, Any]]):
    """Training pairs by position (step, slot), as stored. The store is opened again in every loader process.

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
    def store(self) -> stores.CueStore:
        return stores.open(self.path)

    @cached_property
    def _pool(self) -> Callable[[int], PairPool]:
        """The pool of a window of steps."""
        store, config = self.store, self.config

        def pool(window: int) -> PairPool:
            clips = window_clips(self.clips, config, store.spec.shard_clips, window)
            return PairPool(clips, partial(store.read, "pair_gap"), config.max_gap)

        return lru_cache(maxsize=1)(pool)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("store", "_pool")}

    def __getitem__(self, position: tuple[int, int]) -> dict[str, Any]:
        """Return one pair: what `Stored` has, without the axis of pairs."""
        config, store = self.config, self.store
        geometry = store.spec.geometry
        online = config.distilled == "online"
        stored_channels = self.encoder_width if online else geometry.channels
        pool = self._pool(position[0] // window_steps(config, store.spec.shard_clips))
        sample = draw_sample(generator(config.seed, *position), pool, config, geometry.base, stored_channels)
        names = ("rgb", *self.arrays)
        pair = store.stored_pair(sample.clip, sample.pair, names, None if online else sample.channels)
        channels = sample.channels if pair.feature_channels is None else pair.feature_channels
        views = sample.context, sample.query
        return {
            **{name: pair[name] for name in names},
            **{scale: pair[scale] for scale in (f"{name}_scale" for name in names) if scale in store.arrays},
            "boxes": np.array([(b.top, b.left, b.side, int(b.hflip != sample.base_hflip)) for b in views]),
            "base_hflip": sample.base_hflip,
            "channels": np.array(channels, np.int64),
            "clips": sample.clip,
        }


def load_pairs(
    dataset: PairDataset, steps: range, rank: Rank | None = None, num_workers: int | None = 0
) -> Iterator[PairBatch]:
    """Yield the batches of `steps` on this rank's device (default: of a single process on the CPU).

    Args:
        num_workers: loader processes; None: up to 8, one for each core of the rank, to feed a GPU, and none for a CPU.

    Raises:
        LilaError: the batch cannot be split over the ranks, or there is too little shared memory for the processes.
    """
    rank = rank or Rank()
    batch_size = dataset.config.batch_size
    if batch_size % rank.world_size:
        raise LilaError(f"a batch of {batch_size} pairs cannot be split evenly over {rank.world_size} ranks")
    slots = range(rank.rank, batch_size, rank.world_size)
    if num_workers is None:
        num_workers = min(8, rank.cores) if rank.device.type == "cuda" else 0
    if num_workers and len(steps):
        _check_shared_memory(dataset, steps, rank, num_workers)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=([(step, slot) for slot in slots] for step in steps),
        num_workers=num_workers,
        worker_init_fn=ignore_signals,
        pin_memory=rank.device.type == "cuda",
        multiprocessing_context="spawn" if num_workers else None,
        prefetch_factor=_PREFETCH if num_workers else None,
    )
    for stored in _on_device(loader, rank.device):
        yield PairBatch.decode(stored, dataset.store.arrays)


@contextmanager
def explain_loader_errors() -> Iterator[None]:
    """Turn errors of loader processes, which torch reports with a traceback, and the death of one into a sentence."""
    try:
        yield
    except LilaError as error:
        *traceback, last = str(error).strip().split("\n")
        raise (type(error)(last.partition(": ")[2]) if traceback else error) from None
    except (RuntimeError, OSError, EOFError) as error:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise once more, in these lines
        files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
        receiving = any(Path(file).parent.name == "multiprocessing" for file in files)  # a batch of a killed process
        if "DataLoader worker" not in str(error) and (isinstance(error, RuntimeError) or not receiving):
            raise
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise LilaError(
            f"expected the loader processes to last, found that one has ended ({reason}), as by a lack of memory; pass "
            "a smaller --num-workers, or give the job more memory: the same command continues from the last checkpoint"
        ) from error


def _on_device(batches: Iterable[Stored], device: torch.device) -> Iterator[Stored]:
    """Copy batches; to a GPU on a stream of its own, while the GPU computes the batch before."""
    if device.type != "cuda":
        yield from batches
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            on_device = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        compute = torch.cuda.current_stream(device)
        compute.wait_stream(copies)
        for tensor in on_device.values():
            tensor.record_stream(compute)
        yield on_device


def _check_shared_memory(dataset: PairDataset, steps: range, rank: Rank, num_workers: int) -> None:
    """Raise LilaError if the batches of all loader processes of this machine do not fit: they would wait for ever."""
    if not _SHARED_MEMORY.exists():
        return
    pair = sum(np.asarray(value).nbytes for value in dataset[steps.start, rank.rank].values())
    batch = pair * dataset.config.batch_size // rank.world_size
    needed, free = batch * (_PREFETCH * num_workers + 1) * rank.local_ranks, shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise LilaError(
            f"expected {needed / 1e6:,.0f} MB of shared memory for {num_workers} loader processes, found "
            f"{free / 1e6:,.0f} MB free in {_SHARED_MEMORY}; start the container with more (Docker: --shm-size "
            f"{math.ceil(needed / 1e9)}g), or pass --num-workers 0"
        )
