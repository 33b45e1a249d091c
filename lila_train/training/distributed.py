"""Processes that share a training run: rank, collectives, shutdown on a signal. One process alone is the usual case.

The only module that imports torch.distributed.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from lila_cues import console, devices
from stores.errors import LilaError

T = TypeVar("T")
COLLECTIVE_TIMEOUT = timedelta(hours=2)  # longer than any callback: the other ranks wait while rank 0 scores
_TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


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

    @property
    def local_ranks(self) -> int:
        """Ranks on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size)) if self.world_size > 1 else 1

    @property
    def cores(self) -> int:
        """Cores of this machine for each of its ranks."""
        return max(1, devices.usable_cores() // self.local_ranks)

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum over ranks; no gradient passes."""
        if self.world_size == 1:
            return values
        values = values.detach().clone()
        dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.all_reduce_sum(torch.zeros(1, device=self.device))

    def on_main(self, compute: Callable[[], T]) -> T:
        """Return the result of rank 0, a JSON value, on every rank; its error ends the others without a message."""
        if self.world_size == 1:
            return compute()
        text = b""
        try:
            if self.is_main:
                text = json.dumps(compute()).encode()
        finally:
            length = self.all_reduce_sum(torch.tensor([len(text)], device=self.device))
            message = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
            if self.is_main and text:
                message = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self.device)
            if len(message):
                dist.broadcast(message, 0)
        if not len(message):
            raise SystemExit(console.EXIT_BAD_INPUT)
        result: T = json.loads(message.cpu().numpy().tobytes())
        return result

    @contextmanager
    def together(self) -> Iterator[None]:
        """End all ranks if the block fails on one of them; the message is that of rank 0, or of those that failed."""
        if self.world_size == 1:
            yield
            return
        error, failed = None, torch.zeros(self.world_size, device=self.device)
        try:
            yield
        except Exception as raised:
            error, failed[self.rank] = raised, 1
        failed = self.all_reduce_sum(failed)
        if error is not None and (self.is_main or not failed[0]):
            raise error
        if failed.any():
            raise SystemExit(console.EXIT_BAD_INPUT)

    def check_agreement(self, digest: str, what: str) -> None:
        """Raise LilaError on the ranks whose digest differs from that of rank 0."""
        if self.on_main(lambda: digest) != digest:
            raise LilaError(
                f"rank {self.rank} would train with {what} that differ from those of rank 0; start every rank with the "
                "same command, code and store"
            )


@contextmanager
def init(device_name: str, backend: str | None = None, join_timeout: float = 600) -> Iterator[Rank]:
    """Join the process group that `torchrun` announces; without one, yield a single rank.

    Args:
        backend: of the collectives; None: nccl on GPUs, gloo on CPUs. gloo also serves several ranks on one GPU.
        join_timeout: seconds to wait for the other ranks.

    Raises:
        LilaError: the variables of torchrun are incomplete, or a rank did not come, or was lost later.
    """
    if backend not in (None, "nccl", "gloo"):
        raise LilaError(f"expected --backend nccl or gloo, found {backend}")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Rank(device=devices.choose(device_name))
        return
    missing = [name for name in _TORCHRUN if not os.environ.get(name)]
    wrong = [name for name in _TORCHRUN if not (name == "MASTER_ADDR" or os.environ.get(name, "0").isdecimal())]
    if missing or wrong:
        raise LilaError(
            f"expected {', '.join(missing or wrong)} as torchrun sets them, beside {_environment()}; {_UNSET}"
        )
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = rank_device(device_name, share=backend == "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before anything is allocated
    elif backend == "nccl":
        raise LilaError("expected GPUs for --backend nccl, found the CPU; leave --backend out")
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    timeout = timedelta(seconds=join_timeout)
    try:
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        store = _meet(store, rank, world_size, timeout)
    except (RuntimeError, ValueError) as error:
        raise LilaError(
            f"rank {rank} waited {join_timeout:g} s (--join-timeout) for all {world_size} ranks, and not all came; the "
            f"environment says {_environment()}; {_UNSET}"
        ) from error
    dist.init_process_group(
        backend,
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if backend == "nccl" else None,
    )
    try:
        yield Rank(rank, world_size, device)
    except RuntimeError as error:
        if not any(name in str(error).lower() for name in ("gloo", "nccl", "connection reset", "connection closed")):
            raise
        raise LilaError(
            f"rank {rank} lost the connection to another rank, whose own message says why; the same command continues "
            "from the last checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()


def _meet(store: Store, rank: int, world_size: int, timeout: timedelta) -> Store:
    """Wait for all ranks of this start; return a store of theirs alone.

    After an elastic restart torchrun's store still holds the addresses of the processes before, which gloo would try.
    """
    token = uuid.uuid4().hex
    store.set(f"waiting/{rank}", token)
    if rank == 0:
        end = time.monotonic() + timeout.total_seconds()
        names = [f"waiting/{other}" for other in range(world_size)]
        store.wait(names, timeout)
        while True:
            tokens = [store.get(name).decode() for name in names]
            if not any(store.check([f"met/{found}"]) for found in tokens):
                break
            if time.monotonic() > end:
                raise RuntimeError("some ranks are those of an earlier start")
            time.sleep(0.1)
        for found in tokens:
            store.set(f"met/{found}", token)
    store.wait([f"met/{token}"], timeout)
    return PrefixStore(store.get(f"met/{token}").decode(), store)


_UNSET = (
    "start all ranks by torchrun --nproc-per-node N -m lila_train run …, or, to train in one process, run `unset "
    f"{' '.join(_TORCHRUN)}` first"
)


def _environment() -> str:
    return " ".join(f"{name}={os.environ[name]}" for name in _TORCHRUN if name in os.environ)


def rank_device(device_name: str, share: bool = False) -> torch.device:
    """Return the device of one of several ranks: the GPU of its number on this machine, or the CPU.

    share: whether ranks may share a GPU.
    """
    device = devices.choose(device_name)
    if device.type != "cuda":
        return device
    local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if share:
        return torch.device("cuda", local_rank % count)
    if device.index is not None:
        raise LilaError(
            f"expected --device cuda with several ranks, a GPU each, found {device_name}; leave out its number"
        )
    if local_rank >= count:
        raise LilaError(
            f"expected a GPU for each rank of this machine, found {count} for rank {local_rank} (from 0); start "
            f"torchrun with --nproc-per-node {count} at most, or share a GPU with --backend gloo"
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


def ignore_signals(_worker: int = 0) -> None:
    """Ignore SIGINT and SIGTERM in a loader process, which receives them too; the main process ends it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
