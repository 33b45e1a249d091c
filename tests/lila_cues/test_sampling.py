"""Properties of the frames and pairs kept per clip."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lila_cues.sampling import FrameSelection, Stream, anchors_and_gaps, rng, select_channels, select_frames
from stores.errors import LilaError

SEEDS = st.integers(0, 2**63)
CLIPS = st.text(max_size=20)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, int]:
    anchors, gaps = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    return anchors * (1 + gaps), anchors * gaps


@given(SEEDS, CLIPS, st.integers(2, 400), geometries(), st.integers(1, 8))
def test_pairs_are_pairs_of_the_kept_frames(seed: int, clip: str, length: int, size: tuple[int, int], top: int) -> None:
    frames, pairs = size
    choice = select_frames(seed, clip, length, frames, pairs, top)
    assert choice.frame_index.shape == (frames,)
    assert choice.pair_frames.shape == (pairs, 2)
    assert np.all(np.diff(choice.frame_index) >= 0)
    assert choice.frame_index[0] >= 0
    assert choice.frame_index[-1] < length
    earlier, later = choice.frame_index[choice.pair_frames].T
    assert np.array_equal(later - earlier, choice.pair_gap)
    assert choice.pair_gap.min() >= 1
    assert choice.pair_gap.max() <= min(top, length - 1)
    assert set(choice.pair_frames.ravel()) == set(range(frames)), "every kept frame belongs to a pair"


@given(SEEDS, CLIPS, st.integers(2, 400), geometries(), st.integers(1, 8))
def test_every_gap_occurs_equally_often(seed: int, clip: str, length: int, size: tuple[int, int], top: int) -> None:
    counts = Counter(select_frames(seed, clip, length, *size, top).pair_gap.tolist())
    dealt = [counts[gap] for gap in range(1, min(top, length - 1) + 1)]
    assert max(dealt) - min(dealt) <= 1


@given(SEEDS, CLIPS, geometries(), st.integers(1, 8), st.integers(0, 300))
def test_a_long_clip_is_covered_and_no_frame_kept_twice(
    seed: int, clip: str, size: tuple[int, int], top: int, more: int
) -> None:
    anchors, gaps = anchors_and_gaps(*size)
    if gaps > top:
        return
    length = anchors * (top + 2) + more
    choice = select_frames(seed, clip, length, *size, top)
    assert len(set(choice.frame_index.tolist())) == size[0]
    parts = np.linspace(0, length, anchors + 1)
    held, _ = np.histogram(choice.frame_index, parts)
    assert held.min() >= 1, "no part of the clip goes without a frame"


def test_the_choice_depends_on_the_seed_and_the_clip_alone() -> None:
    def same(one: FrameSelection, other: FrameSelection) -> bool:
        return np.array_equal(one.frame_index, other.frame_index) and np.array_equal(one.pair_frames, other.pair_frames)

    first = select_frames(0, "a.mp4", 300, 16, 12, 5)
    select_frames(5, "z.mp4", 300, 16, 12, 5)
    assert same(first, select_frames(0, "a.mp4", 300, 16, 12, 5))
    assert not same(first, select_frames(1, "a.mp4", 300, 16, 12, 5))
    assert not same(first, select_frames(0, "b.mp4", 300, 16, 12, 5))


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_over_many_clips_gaps_and_positions_are_uniform(seed: int) -> None:
    choices = [select_frames(seed, str(clip), 301, 16, 12, 5) for clip in range(300)]
    gaps = np.bincount(np.concatenate([choice.pair_gap for choice in choices]), minlength=6)[1:]
    assert np.all(np.abs(gaps / gaps.sum() - 0.2) < 0.02)
    thirds, _ = np.histogram(np.concatenate([choice.frame_index for choice in choices]), [0, 100, 200, 301])
    assert np.all(np.abs(thirds / thirds.sum() - 1 / 3) < 0.03)


def test_one_frame_cannot_make_a_pair() -> None:
    for length in (0, 1):
        with pytest.raises(LilaError, match=rf"expected a clip of two frames or more, found {length} in a\.mp4"):
            select_frames(0, "a.mp4", length, 16, 12, 5)
    choice = select_frames(0, "a.mp4", 2, 4, 3, 5)
    assert choice.frame_index.tolist() == [0, 1, 1, 1]
    assert choice.pair_gap.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("frames", "pairs"), [(16, 16), (10, 7), (4, 0), (3, 5)])
def test_frames_and_pairs_must_fit_together(frames: int, pairs: int) -> None:
    with pytest.raises(LilaError, match=f"found {frames} frames and {pairs} pairs per clip; choose for example"):
        anchors_and_gaps(frames, pairs)


def test_what_is_drawn_for_one_purpose_says_nothing_of_another() -> None:
    draws = {purpose: rng(7, "a.mp4", purpose).random(8).tolist() for purpose in Stream}
    assert draws[Stream.FRAMES] == rng(7, "a.mp4", Stream.FRAMES).random(8).tolist()
    assert not set(draws[Stream.FRAMES]) & set(draws[Stream.CHANNELS])


@given(SEEDS, CLIPS, st.integers(1, 400), st.integers(1, 64))
def test_channels_are_a_subset(seed: int, clip: str, width: int, kept: int) -> None:
    drawn = select_channels(seed, clip, width, min(kept, width))
    assert len(set(drawn.tolist())) == min(kept, width)
    assert np.all(np.diff(drawn) > 0)
    assert drawn.min() >= 0
    assert drawn.max() < width


def test_channels_are_drawn_anew_for_every_clip_and_evenly() -> None:
    drawn = np.concatenate([select_channels(0, str(clip), 40, 10) for clip in range(800)])
    counts = np.bincount(drawn, minlength=40)
    assert counts.min() > 150
    assert counts.max() < 250
    assert not np.array_equal(select_channels(0, "a", 40, 10), select_channels(0, "b", 40, 10))
    assert not np.array_equal(select_channels(0, "a", 40, 10), select_channels(1, "a", 40, 10))
