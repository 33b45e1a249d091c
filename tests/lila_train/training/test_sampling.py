"""Sampling by position: boxes stay inside, positions draw independently and reproducibly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lila_train.training.config import TrainConfig
from lila_train.training.sampling import (
    LARGE_STORE,
    WINDOW_SHARDS,
    PairPool,
    PairSample,
    draw_box,
    draw_sample,
    generator,
    window_clips,
)
from stores.errors import LilaError

POOL = PairPool(np.arange(0, 40, 2), lambda clip: np.array([1, 3, 5, 2]), max_gap=3)


def at(seed: int, step: int, slot: int, **settings: object) -> PairSample:
    config = TrainConfig(steps=1, channels=5, **settings)  # type: ignore[arg-type]
    return draw_sample(generator(seed, step, slot), POOL, config, base=(48, 64), stored_channels=12)


@settings(max_examples=100, deadline=None)
@given(st.integers(4, 90), st.integers(4, 90), st.floats(0.01, 1), st.integers(0, 9))
def test_boxes_lie_inside_the_base(height: int, width: int, area: float, seed: int) -> None:
    box = draw_box(generator(seed, 0, 0), (height, width), (area, 1.0))
    assert 0 <= box.top <= height - box.side
    assert 0 <= box.left <= width - box.side
    assert box.side >= 1


def test_a_position_always_draws_the_same_and_positions_differ() -> None:
    assert at(0, 3, 1) == at(0, 3, 1)
    assert len({at(*p) for p in [(0, 3, 1), (1, 3, 1), (0, 4, 1), (0, 3, 2), (0, 1, 3)]}) == 5


def test_samples_follow_the_ranges() -> None:
    drawn = [at(0, step, 0) for step in range(400)]
    areas = np.array([(d.query.side / 48) ** 2 for d in drawn])
    assert 0.28 < areas.min() < 0.35
    assert 0.95 < areas.max() <= 1
    assert {d.context.side for d in drawn} == {43}  # √0.8 of 48
    assert {d.pair for d in drawn} == {0, 1, 3}  # the pair with a gap of 5 is out of the window
    assert {d.clip for d in drawn} == set(range(0, 40, 2))
    assert not any(d.context.hflip for d in drawn)
    assert 0.4 < np.mean([d.query.hflip for d in drawn]) < 0.6
    assert 0.4 < np.mean([d.base_hflip for d in drawn]) < 0.6
    assert all(len(set(d.channels)) == 5 and max(d.channels) < 12 for d in drawn)


def test_without_cropping_both_views_are_the_same_region() -> None:
    drawn = [at(0, step, 0, same_region=True) for step in range(20)]
    assert all(d.context == d.query for d in drawn)


def test_blocks_divide_all_shards_anew_in_every_pass() -> None:
    clips = np.delete(np.arange(8 * 3 * WINDOW_SHARDS - 8), slice(40, 46))
    config = TrainConfig(steps=1, shuffle="blocks")
    passes = []
    for turn in range(2):
        windows = [window_clips(clips, config, 8, 3 * turn + number) for number in range(3)]
        np.testing.assert_array_equal(np.sort(np.concatenate(windows)), clips)
        shards = [set((window // 8).tolist()) for window in windows]
        assert sorted(len(numbers) for numbers in shards) == [255, 256, 256]
        passes.append(shards)
    assert passes[0] != passes[1]
    np.testing.assert_array_equal(windows[2], window_clips(clips, config, 8, 5))
    assert set((window_clips(clips, config.replace(seed=1), 8, 5) // 8).tolist()) != shards[2]


@pytest.mark.parametrize(
    ("shuffle", "clips", "drawn"),
    [
        ("auto", LARGE_STORE, LARGE_STORE),
        ("auto", LARGE_STORE + 1, WINDOW_SHARDS),
        ("uniform", LARGE_STORE + 1, LARGE_STORE + 1),
        ("blocks", 300, 150),
        ("blocks", 20, 20),
    ],
)
def test_large_stores_are_drawn_from_in_blocks(shuffle: str, clips: int, drawn: int) -> None:
    config = TrainConfig(steps=1, shuffle=shuffle)  # type: ignore[arg-type]
    found = len(window_clips(np.arange(clips), config, 1, 0))
    assert found == pytest.approx(drawn, abs=8)


def test_a_pool_without_close_pairs_is_refused() -> None:
    with pytest.raises(LilaError, match="at most 2 frames apart"):
        PairPool(np.array([1]), lambda _: np.array([3, 4]), 2).draw(generator(0, 0, 0))
