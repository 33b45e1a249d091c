"""Sampling by position: boxes stay inside, every position draws its own, shares of a batch do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lila_train.training.sampling import Draw, PairPool, ViewRanges, draw, draw_box, generator
from stores.errors import LilaError

POOL = PairPool(np.arange(0, 40, 2), lambda clip: np.array([1, 3, 5, 2]), max_gap=3)


def at(seed: int, step: int, slot: int, ranges: ViewRanges = ViewRanges()) -> Draw:  # noqa: B008 - frozen
    return draw(generator(seed, step, slot), POOL, ranges, base=(48, 64), stored=12, kept=5)


@settings(max_examples=100, deadline=None)
@given(st.integers(4, 90), st.integers(4, 90), st.floats(0.01, 1), st.integers(0, 9))
def test_boxes_lie_inside_the_base(height: int, width: int, area: float, seed: int) -> None:
    box = draw_box(generator(seed, 0, 0), (height, width), (area, 1.0), mirrored=False)
    assert 0 <= box.top <= height - box.side
    assert 0 <= box.left <= width - box.side
    assert box.side >= 1


def test_a_position_always_draws_the_same_and_positions_differ() -> None:
    assert at(0, 3, 1) == at(0, 3, 1)
    assert len({at(*p) for p in [(0, 3, 1), (1, 3, 1), (0, 4, 1), (0, 3, 2), (0, 1, 3)]}) == 5


def test_draws_follow_the_ranges() -> None:
    drawn = [at(0, step, 0) for step in range(400)]
    areas = np.array([(d.query.side / 48) ** 2 for d in drawn])
    assert 0.28 < areas.min() < 0.35
    assert 0.95 < areas.max() <= 1
    assert {d.context.side for d in drawn} == {43}  # √0.8 of 48
    assert {d.pair for d in drawn} == {0, 1, 3}  # the pair with a gap of 5 is out of the window
    assert {d.clip for d in drawn} == set(range(0, 40, 2))
    same = np.mean([d.query.mirrored == d.context.mirrored for d in drawn])
    assert 0.4 < same < 0.6
    assert all(len(set(d.stored_channels)) == 5 and max(d.stored_channels) < 12 for d in drawn)


def test_without_cropping_both_views_are_one() -> None:
    drawn = [at(0, step, 0, ViewRanges(same_region=True)) for step in range(20)]
    assert all(d.context == d.query for d in drawn)


def test_an_empty_pool_says_so() -> None:
    with pytest.raises(LilaError, match="holds no complete clip"):
        PairPool(np.array([], dtype=int), lambda _: np.array([1]), 5).draw(generator(0, 0, 0))
    with pytest.raises(LilaError, match="at most 2 frames apart"):
        PairPool(np.array([1]), lambda _: np.array([3, 4]), 2).draw(generator(0, 0, 0))
