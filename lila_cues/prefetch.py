"""Threads that read ahead of a loop and write behind it, in order: `map_ordered`, and `prefetch` for an iterator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import repeat, takewhile
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ordered(
    work: Callable[[Item], Result], items: Iterable[Item], ahead: int, threads: int = 1
) -> Generator[Result, None, None]:
    """Yield `work(item)` for each item, in order, with up to `ahead` later items in work at the same time.

    Items are drawn in the calling thread; `threads` threads of this call's own run the work. An error of `work` or of
    `items` is raised at its place, after the results before it. Closing the iterator cancels what has not begun, and
    closes `items` if it is an iterator.
    """
    iterator, error = iter(items), None
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        try:
            while True:
                try:
                    pending.append(executor.submit(work, next(iterator)))
                except StopIteration:
                    break
                except BaseException as raised:  # also Ctrl-C: items in work are completed first
                    error = raised
                    break
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
            if error is not None:
                raise error
        finally:
            for future in pending:
                future.cancel()
            if isinstance(iterator, Generator):
                iterator.close()


def prefetch(items: Iterable[Item], ahead: int) -> Generator[Item, None, None]:
    """Yield the items of an iterator that a thread of its own runs, up to `ahead` items ahead."""
    iterator, end = iter(items), object()
    try:
        with closing(map_ordered(lambda _: next(iterator, end), repeat(None), ahead)) as drawn:
            yield from takewhile(lambda item: item is not end, drawn)
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items; the last one may be shorter, and so may that before an error of `items`."""
    batch, error = list[Item](), None
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except Exception as raised:
        error = raised
    if batch:
        yield batch
    if error is not None:
        raise error
