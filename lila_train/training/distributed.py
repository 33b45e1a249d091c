"""A polite end: SIGTERM or Ctrl-C asks a run to stop after the step it is in; a second Ctrl-C does not wait.

The processes that share a run: who we are, and sums over all of us. One process alone is the ordinary case.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from stores.errors import LilaError


@contextmanager
def graceful_shutdown() -> Iterator[Callable[[], signal.Signals | None]]:
    """Gives a function that says which signal has come, if any; the handlers of before are put back at the end."""
    came: signal.Signals | None = None

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came is signal.SIGINT and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        came = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_ctrl_c(_worker: int) -> None:
    """For loader processes: the terminal sends Ctrl-C to all, but only the run decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True)
class Rank:
    """The slots of every batch that one rank computes: slot = rank, rank + ranks, …"""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0


def grouped() -> bool:
    """Whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized()


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all ranks; no gradient passes."""
    if not grouped():
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean over all ranks; no gradient passes."""
    return all_reduce_sum(values) / dist.get_world_size() if grouped() else values


@contextmanager
def group(device: torch.device) -> Iterator[Rank]:
    """Join the group that `torchrun` made, NCCL on GPUs and gloo on CPUs; alone without one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Rank()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Rank(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def refuse_disagreement(fingerprint: str) -> None:
    """Every rank must run the same settings on the same store; one that does not is named."""
    if not grouped():
        return
    told: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(told, fingerprint)
    others = [rank for rank, theirs in enumerate(told) if theirs != told[0]]
    if others:
        raise LilaError(
            f"rank{'s' * (len(others) > 1)} {', '.join(map(str, others))} would train with other settings, code or "
            "store than rank 0; start every rank with the same command"
        )
