"""Ordered work in threads: the same results in the same order, errors at their place, and a bounded number ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from lila_cues.prefetch import batched, map_ordered, prefetch
from stores.errors import LilaError


def numbers_then_error(count: int = 5) -> Iterator[int]:
    yield from range(count)
    raise LilaError("broken")


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ahead", [0, 1, 7])
def test_order_does_not_depend_on_durations(threads: int, ahead: int) -> None:
    def slow(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(map_ordered(slow, range(20), ahead, threads)) == [item * item for item in range(20)]
    assert list(map_ordered(slow, [], ahead, threads)) == []


def test_an_error_of_the_work_is_raised_at_its_place() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    results = map_ordered(work, range(5), 3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


@pytest.mark.parametrize("interruption", [LilaError, KeyboardInterrupt])
def test_an_error_of_the_items_comes_after_the_results_before_it(interruption: type[BaseException]) -> None:
    """What is computed is written, also when a run is interrupted."""

    def items() -> Iterator[int]:
        yield from range(3)
        raise interruption("broken")

    def write(item: int) -> None:
        time.sleep(0.005)
        written.append(item)

    written: list[int] = []
    with pytest.raises(interruption, match="broken"):
        list(map_ordered(write, items(), 4))
    assert written == [0, 1, 2]


def test_few_items_are_in_work_ahead() -> None:
    begun: list[int] = []
    results = map_ordered(begun.append, iter(range(100)), 3, threads=2)
    next(results)
    time.sleep(0.01)
    assert len(begun) <= 4
    results.close()
    assert len(begun) <= 4


def test_work_runs_in_threads_and_items_are_drawn_by_the_caller() -> None:
    caller, threads = threading.get_ident(), set[int]()

    def items() -> Iterator[int]:
        for number in range(8):
            assert threading.get_ident() == caller
            yield number

    list(map_ordered(lambda _: threads.add(threading.get_ident()), items(), 2))
    assert len(threads) == 1
    assert caller not in threads


def test_an_iterator_is_run_ahead_in_its_order_up_to_its_error() -> None:
    seen: list[int] = []
    with pytest.raises(LilaError, match="broken"):
        seen.extend(prefetch(numbers_then_error(), 2))
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
    ordered.close()
    assert closed == [True]
    assert len(begun) <= 5


def test_batches_have_one_size_but_for_the_last() -> None:
    assert list(batched(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    batches = batched(numbers_then_error(5), 3)
    assert [next(batches), next(batches)] == [[0, 1, 2], [3, 4]]
    with pytest.raises(LilaError, match="broken"):
        next(batches)
