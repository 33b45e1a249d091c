"""What a benchmark reads off its process: seconds of its own, and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch


def clock(device: str) -> float:
    """Seconds of this process's own on a CPU, whatever else runs there; of the wall on a GPU."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def wait(device: str) -> None:
    """For what was given to the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], device: str) -> float:
    """By `clock`, of one call and what it gives to the device."""
    wait(device)
    began = clock(device)
    call()
    wait(device)
    return clock(device) - began


def median_seconds(call: Callable[[], object], device: str, repeats: int) -> float:
    """Of the calls after a first one, which is not counted."""
    call()
    return statistics.median(seconds(call, device) for _ in range(repeats))


def begin_peak_mib(device: str) -> float:
    """Forget the peak so far; what is held now."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return status_mib("VmRSS")


def peak_mib(device: str) -> float:
    """The most that was held since `begin_peak_mib`, or ever."""
    return status_mib("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20


def status_mib(name: str) -> float:
    """VmRSS, what this process holds now, or VmHWM, the most it has held."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 2**10
