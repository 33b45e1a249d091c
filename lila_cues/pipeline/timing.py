"""Seconds per part of the work, added up over threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Timer:
    """Sums seconds per named part; a GPU's own time is taken by events, which do not make the host wait."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def host(self, part: str) -> Iterator[None]:
        """Add the time that the calling thread spends in the context."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._sums[part] = self._sums.get(part, 0.0) + time.perf_counter() - start

    @contextmanager
    def device(self, part: str) -> Iterator[None]:
        """Add the time that the device spends on the work queued in the context."""
        if not self._cuda:
            with self.host(part):
                yield
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        with self._lock:
            self._events.append((part, start, end))

    def take(self) -> dict[str, float]:
        """Return the sums since the last call; on a GPU this waits for the measured work."""
        with self._lock:
            for part, start, end in self._events:
                end.synchronize()
                self._sums[part] = self._sums.get(part, 0.0) + start.elapsed_time(end) / 1000
            self._events.clear()
            sums, self._sums = self._sums, {}
        return sums
