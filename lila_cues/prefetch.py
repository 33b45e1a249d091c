"""Threads that read ahead of a loop and write behind it, in order: `map_batches`, `prefetch`, `WriteQueue`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from lila_cues.devices import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCHES_AHEAD = 3


def map_batches(work: Callable[[Item], Result], batches: Iterable[list[Item]]) -> Iterator[list[Result]]:
    """Apply `work` to the items of each batch in one thread per core, `BATCHES_AHEAD` batches ahead.

    The order of batches and items stays; an error is raised at its place in it.
    """
    pending: deque[list[Future[Result]]] = deque()
    pool = ThreadPoolExecutor(usable_cores())
    try:
        for batch in batches:
            pending.append([pool.submit(work, item) for item in batch])
            if len(pending) > BATCHES_AHEAD:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prefetch(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Yield the items, up to `count` of them computed ahead in a thread; an error is raised at its place."""
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1)
    try:
        pending = deque(pool.submit(next, iterator, end) for _ in range(count))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, iterator, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if hasattr(iterator, "close"):
            iterator.close()


class WriteQueue:
    """Runs tasks one after the other in a thread, at most `count` of them pending; leaving the context waits."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._count = count

    def __enter__(self) -> WriteQueue:
        return self

    def submit(self, task: Callable[[], None]) -> None:
        """Add a task, and wait while the queue is full; raises the error of an earlier task."""
        while len(self._pending) >= self._count:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(task))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._pending and kind is None:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown()  # finishes pending tasks, also when the run is interrupted
