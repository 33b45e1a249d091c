"""The device that a command runs on, copies from it, and the number of cores that a process may use."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from stores.errors import LilaError

if TYPE_CHECKING:
    import numpy as np
    import torch

_MEMBERSHIP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def choose(name: str, mps: bool = False) -> torch.device:
    """Return the device of a --device option: auto (a GPU where there is one), cpu, cuda, cuda:N or mps.

    `mps` says whether the command can run on Apple's GPUs, which have no float64. Raises LilaError for another name, or
    a GPU that PyTorch does not find.
    """
    import torch  # takes seconds, which a command that only counts cores need not wait for

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    apple = mps and torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if count else "mps" if apple else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps" if mps else r"cpu|cuda(:\d+)?", name):
        why = ", which has no float64 for this command" if name == "mps" else ""
        raise LilaError(
            f"expected --device auto, cpu{', cuda or mps' if mps else ' or cuda'}, found {name}{why}; pass one of these"
        )
    device = torch.device(name)
    if name != "cpu" and not (apple if name == "mps" else count):
        raise LilaError(f"expected a GPU for --device {name}, found none that PyTorch can use; pass --device cpu")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise LilaError(
            f"expected a GPU among cuda:0 to cuda:{count - 1} for --device {name}, found none of that number; "
            "pass one that is there"
        )
    return device


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to a device; to a GPU through pinned memory, without making the host wait."""
    import torch

    if device.type == "cuda" and values.device.type == "cpu":
        values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values)
    return values.to(device, non_blocking=True)


def to_host(tensors: Mapping[str, torch.Tensor]) -> Callable[[], dict[str, np.ndarray]]:
    """Queue copies of tensors of one device to the host, beside its later work; the result waits for them."""
    import torch

    device = next(iter(tensors.values())).device
    if device.type != "cuda":
        return lambda: {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    stream, copies = _copy_stream(device), dict[str, torch.Tensor]()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for name, tensor in tensors.items():
            copies[name] = queue_copy(tensor)
        done = stream.record_event()

    def wait() -> dict[str, np.ndarray]:
        done.synchronize()
        return {name: copied.numpy() for name, copied in copies.items()}

    return wait


def queue_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Queue the copy of a GPU's tensor to pinned memory on the current stream."""
    import torch

    tensor.record_stream(torch.cuda.current_stream(tensor.device))  # its memory is not used before the copy is done
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    import torch

    return torch.cuda.Stream(device)


def require_compiler(device: str | torch.device) -> None:
    """Raise LilaError where --compile would fail on a CPU: PyTorch finds no C++ compiler."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch._inductor.config
    if str(device) == "cpu" and not shutil.which(name):
        raise LilaError(
            f"expected a C++ compiler for --compile on a CPU, found no {name or 'name in $CXX'}; install g++, set CXX "
            "to another, or leave --compile out"
        )


def usable_cores() -> int:
    """Return the number of cores of this process: its CPU affinity, within the CPU quota of a container or job."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    for line in _MEMBERSHIP.read_text().splitlines() if _MEMBERSHIP.exists() else []:
        _, controllers, group = line.split(":", 2)  # cgroup v2 has no list of controllers
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUPS / "cpu" if controllers else _CGROUPS
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        folder = root / group.lstrip("/")
        for place in (place for place in (folder, *folder.parents) if place.is_relative_to(root)):
            with suppress(OSError, ValueError):  # no such group in this container; or "max", no quota
                quota, period = map(int, " ".join((place / file).read_text() for file in files).split())
                cores = min(cores, math.ceil(quota / period)) if quota > 0 else cores
    return max(1, cores)
