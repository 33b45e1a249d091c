"""Reading ahead: the same items in the same order, errors in their place, and never far ahead."""

from __future__ import annotations

import time

import pytest

from lila_cues import prefetch
from lila_cues.prefetch import in_batches


def test_order_is_kept_whatever_takes_long():
    def slow(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    batches = [[0, 1, 2], [3, 4], [5], [6, 7, 8], [9]]
    assert list(in_batches(slow, batches)) == [[item * item for item in batch] for batch in batches]
    assert list(in_batches(slow, [])) == []


def test_an_error_comes_where_it_belongs():
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    found = in_batches(work, [[0], [1], [2], [3]])
    assert [next(found), next(found)] == [[0], [1]]
    with pytest.raises(ValueError, match="two"):
        next(found)


def test_no_more_than_a_few_batches_are_begun():
    begun = []
    found = in_batches(begun.append, ([n] for n in range(100)))
    next(found)
    time.sleep(0.01)
    assert len(begun) <= prefetch.AHEAD + 1
    found.close()
    assert len(begun) <= prefetch.AHEAD + 1
