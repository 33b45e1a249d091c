"""Processes that share a training run: rank, collectives, and graceful shutdown. One process alone is the usual case.

The only module that imports torch.distributed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from lila_cues import devices
from stores.errors import LilaError


@dataclass(frozen=True)
class Rank:
    """One process of a run; it computes the slots rank, rank + world_size, … of every batch."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum over ranks; no gradient passes."""
        if self.world_size == 1:
            return values
        values = values.detach().clone()
        dist.all_reduce(values)
        return values

    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """Return the mean over ranks; no gradient passes."""
        return values if self.world_size == 1 else self.all_reduce_sum(values) / self.world_size

    def check_agreement(self, fingerprint: str) -> None:
        """Raise LilaError that names the ranks whose fingerprint differs from that of rank 0."""
        if self.world_size == 1:
            return
        fingerprints = [""] * self.world_size
        dist.all_gather_object(fingerprints, fingerprint)
        others = [rank for rank, theirs in enumerate(fingerprints) if theirs != fingerprints[0]]
        if others:
            raise LilaError(
                f"rank{'s' * (len(others) > 1)} {', '.join(map(str, others))} would train with other settings, code or "
                "store than rank 0; start every rank with the same command"
            )


@contextmanager
def init(device_name: str) -> Iterator[Rank]:
    """Join the process group that `torchrun` announces, NCCL on GPUs and gloo on CPUs; without one, a single rank."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Rank(device=devices.choose(device_name))
        return
    device = rank_device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before anything is allocated
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield Rank(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def rank_device(device_name: str) -> torch.device:
    """Return the device of one of several ranks: the GPU of its number on this machine, or the CPU."""
    device = devices.choose(device_name)
    if device.type != "cuda":
        return device
    local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device.index is not None:
        raise LilaError(
            f"expected --device cuda with several ranks, a GPU each, found {device_name}; leave out its number"
        )
    if local_rank >= count:
        raise LilaError(
            f"expected a GPU for each rank of this machine, found {count} for rank {local_rank} (from 0); start "
            f"torchrun with --nproc-per-node {count} at most"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def graceful_shutdown() -> Iterator[Callable[[], signal.Signals | None]]:
    """Record SIGTERM and SIGINT instead of ending at once; a second SIGINT interrupts.

    Yields a function that returns the last signal received, or None. The previous handlers are restored on leaving.
    """
    received: signal.Signals | None = None

    def record(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received is signal.SIGINT and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        received = signal.Signals(number)

    previous = {number: signal.signal(number, record) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore_ctrl_c(_worker: int = 0) -> None:
    """Ignore SIGINT in a loader process, which receives it too; the main process decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
