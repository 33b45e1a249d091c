"""Images read and cropped ahead of the network by threads, in order; what comes out is the same as without them.

Reading ahead and writing behind, in a thread each, so that neither waits for the network.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 3  # batches in the making


def in_batches(work: Callable[[Item], Result], batches: Iterable[list[Item]]) -> Iterator[list[Result]]:
    """`work` on the items of each batch, a few batches ahead; the first error in order is raised where it belongs."""
    waiting: deque[list[Future[Result]]] = deque()
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        for batch in batches:
            waiting.append([pool.submit(work, item) for item in batch])
            if len(waiting) > AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


T = TypeVar("T")

_WAIT = 0.1  # s between looks whether anybody still listens


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The same items, up to `count` of them made before they are asked for; their errors come where they would."""
    box: queue.Queue[tuple[str, object]] = queue.Queue(count)
    abandoned = threading.Event()
    thread = threading.Thread(target=_fill, args=(iter(items), box, abandoned), daemon=True)
    thread.start()
    try:
        while True:
            kind, content = box.get()
            if kind == "error":
                assert isinstance(content, BaseException)
                raise content
            if kind == "end":
                return
            yield content  # type: ignore[misc]
    finally:
        abandoned.set()
        thread.join()


def _fill(items: Iterator[object], box: queue.Queue[tuple[str, object]], abandoned: threading.Event) -> None:
    try:
        for item in items:
            if not _put(box, ("item", item), abandoned):
                return
        _put(box, ("end", None), abandoned)
    except BaseException as error:
        _put(box, ("error", error), abandoned)
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _put(box: queue.Queue[tuple[str, object]], entry: tuple[str, object], abandoned: threading.Event) -> bool:
    while not abandoned.is_set():
        try:
            box.put(entry, timeout=_WAIT)
            return True
        except queue.Full:
            continue
    return False


class Behind:
    """Runs what it is given in order, one after the other, in a thread; at most `count` of them wait."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._count = count

    def __enter__(self) -> Behind:
        return self

    def run(self, task: Callable[[], None]) -> None:
        """Have it done; raises what an earlier one raised."""
        while len(self._waiting) >= self._count:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(task))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._waiting and kind is None:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown()  # what waits is finished, also when the run is interrupted
