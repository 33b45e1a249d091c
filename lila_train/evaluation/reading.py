"""Images read and cropped ahead of the network by threads, in order; what comes out is the same as without them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
