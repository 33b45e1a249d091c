"""Prefetching: the same items in the same order, errors at their place, and a bounded number of items ahead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from lila_cues.prefetch import BATCHES_AHEAD, WriteQueue, map_batches, prefetch
from stores.errors import LilaError


def test_order_does_not_depend_on_durations() -> None:
    def slow(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    batches = [[0, 1, 2], [3, 4], [5], [6, 7, 8], [9]]
    assert list(map_batches(slow, batches)) == [[item * item for item in batch] for batch in batches]
    assert list(map_batches(slow, [])) == []


def test_an_error_is_raised_at_its_place() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    batches = map_batches(work, [[0], [1], [2], [3]])
    assert [next(batches), next(batches)] == [[0], [1]]
    with pytest.raises(ValueError, match="two"):
        next(batches)


def test_few_batches_are_computed_ahead() -> None:
    begun: list[int] = []
    batches = map_batches(begun.append, ([n] for n in range(100)))
    next(batches)
    time.sleep(0.01)
    assert len(begun) <= BATCHES_AHEAD + 1
    batches.close()
    assert len(begun) <= BATCHES_AHEAD + 1


def _numbers_then_error() -> Iterator[int]:
    yield from range(5)
    raise LilaError("broken")


def test_prefetched_items_keep_their_order_and_the_error_its_place() -> None:
    seen: list[int] = []
    with pytest.raises(LilaError, match="broken"):
        seen.extend(prefetch(_numbers_then_error(), 2))
    assert list(prefetch(range(100), 3)) == list(range(100))


def test_an_abandoned_prefetch_closes_its_source() -> None:
    begun: list[int] = []
    closed: list[bool] = []

    def numbers() -> Iterator[int]:
        try:
            for number in range(100):
                begun.append(number)
                yield number
        finally:
            closed.append(True)

    ordered = prefetch(numbers(), 2)
    assert [next(ordered) for _ in range(3)] == [0, 1, 2]
    ordered.close()  # type: ignore[attr-defined]
    assert closed == [True]
    assert len(begun) <= 5


def test_writes_are_in_order_and_an_error_is_raised() -> None:
    written: list[int] = []
    with WriteQueue(2) as queue:
        for number in range(20):
            queue.submit(partial(written.append, number))
    assert written == list(range(20))

    def fail() -> None:
        raise OSError("disk full")

    def loop() -> None:
        with WriteQueue(1) as queue:
            queue.submit(fail)
            queue.submit(fail)

    with pytest.raises(OSError, match="disk full"):
        loop()


def test_pending_writes_finish_when_the_loop_fails() -> None:
    written: list[int] = []

    def loop() -> None:
        with WriteQueue(2) as queue:
            queue.submit(lambda: time.sleep(0.01))
            queue.submit(lambda: written.append(1))
            raise LilaError("broken")

    with pytest.raises(LilaError, match="broken"):
        loop()
    assert written == [1]
