"""The DAVIS scorer against the official one, against masks computed by hand, and on invalid input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lila_train.evaluation.davis import metrics as scorer
from lila_train.evaluation.davis.metrics import ObjectScore
from lila_train.evaluation.dense.metrics import MeanSums
from stores.errors import LilaError


def pairs_of(truths, predictions):
    return [
        ((scorer.without_void(truth), f"truth/{n:05d}.png"), (prediction, f"prediction/{n:05d}.png"))
        for n, (truth, prediction) in enumerate(zip(truths, predictions, strict=True))
    ]


@pytest.fixture(scope="module")
def official(shared: Path):
    masks = np.load(shared / "conformance/davis_masks.npz")
    expected = json.loads((shared / "conformance/davis_scores.json").read_text())
    scores = {
        n: scorer.score_sequence(n, pairs_of(masks[f"truth_{n}"], masks[f"pred_{n}"]))
        for n in expected
        if n != "dataset"
    }
    return scores, expected


def test_every_frame_and_object_equals_the_official_scorer(official):
    scores, expected = official
    for name, objects in scores.items():
        for score, truth in zip(objects, expected[name], strict=True):
            assert score.object_id == truth["object"]
            for curve, key in ((score.region, "J"), (score.boundary, "F")):
                np.testing.assert_allclose(curve, truth[f"{key}_frames"], rtol=0, atol=1e-9)
                ours = scorer.statistics(curve)
                np.testing.assert_allclose(list(ours.values()), truth[key], rtol=0, atol=1e-9)


def test_dataset_metrics_equal_the_official_scorer(official):
    scores, expected = official
    metrics = scorer.summarize(score for objects in scores.values() for score in objects)
    for key in ("J", "F", "JF"):
        assert metrics[key] == pytest.approx(expected["dataset"][key], abs=1e-9)


def test_every_object_has_the_same_weight_in_any_order(official):
    scores, _ = official
    objects = [score for objects in scores.values() for score in objects]
    metrics = scorer.summarize(objects)
    assert scorer.summarize(reversed(objects)) == pytest.approx(metrics, abs=1e-12)
    assert metrics["J"] == pytest.approx(np.mean([np.mean(score.region) for score in objects]), abs=1e-12)


def test_without_objects_metrics_are_missing_not_zero():
    assert set(scorer.summarize([]).values()) == {None}


@given(st.lists(st.lists(st.floats(-1e3, 1e3), max_size=4), max_size=5))
def test_means_of_parts_add(parts):
    flat = [value for part in parts for value in part]
    sums = [sum((MeanSums.of({"x": value}) for value in part), MeanSums()) for part in parts]
    mean = sum(sums, MeanSums()).mean("x")
    assert mean == (pytest.approx(np.mean(flat), abs=1e-9) if flat else None)


def test_boundary_of_a_block_is_its_outline_seen_from_the_north_west():
    mask = np.zeros((5, 6), bool)
    mask[2:4, 2:4] = True
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 1, 0, 1, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ],
        bool,
    )
    assert (scorer.boundary_map(mask) == expected).all()


def test_boundary_looks_east_only_in_the_last_row_and_south_only_in_the_last_column():
    last_row = np.array([[0, 0, 0], [0, 1, 0]], bool)
    assert scorer.boundary_map(last_row).astype(int).tolist() == [[1, 1, 0], [1, 1, 0]]
    corner = np.array([[0, 0], [0, 1]], bool)
    assert scorer.boundary_map(corner).astype(int).tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(("height", "width", "expected"), [(480, 854, 8), (240, 427, 4), (97, 161, 2)])
def test_tolerance_is_a_share_of_the_diagonal_rounded_up(height, width, expected):
    moved = [square(20 + by, shape=(height, width)) for by in (0, expected, expected + 1)]
    assert scorer.boundary_accuracy(moved[0], moved[1]) == 1.0
    assert scorer.boundary_accuracy(moved[0], moved[2]) < 1.0


def square(row: int, size: int = 20, shape: tuple[int, int] = (480, 854)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[row : row + size, 100 : 100 + size] = True
    return mask


def test_boundaries_within_the_tolerance_match_and_beyond_it_do_not():
    assert scorer.boundary_accuracy(square(100), square(108)) == 1.0
    assert scorer.boundary_accuracy(square(100), square(109)) < 1.0
    assert scorer.boundary_accuracy(square(100), square(300)) == 0.0


def test_region_and_boundary_of_empty_masks():
    empty, full = np.zeros((9, 9), bool), square(3)[:9, 98:107]
    assert scorer.region_similarity(empty, empty) == scorer.boundary_accuracy(empty, empty) == 1.0
    assert scorer.region_similarity(empty, full) == scorer.boundary_accuracy(empty, full) == 0.0


@given(st.integers(0, 2**32 - 1))
def test_a_mask_scores_1_against_itself_and_the_score_is_symmetric(seed):
    draw = np.random.Generator(np.random.Philox(seed))
    one, other = (draw.random((12, 17)) < 0.4 for _ in range(2))
    assert scorer.region_similarity(one, one) == scorer.boundary_accuracy(one, one) == 1.0
    assert scorer.boundary_accuracy(one, other) == pytest.approx(scorer.boundary_accuracy(other, one))


def test_statistics_by_hand():
    statistics = scorer.statistics([1.0, 0.5, 0.75, 0.25, 0.0])
    assert statistics == {"mean": 0.5, "recall": 0.4, "decay": 0.75 - 0.125}


def test_first_and_last_frame_are_not_scored_and_void_is_background():
    truth = np.zeros((4, 6, 6), np.uint8)
    truth[:, 1:3, 1:3] = 1
    truth[:, 5, 5] = 255
    prediction = np.where(truth == 255, 0, truth).astype(np.uint8)
    prediction[0] = prediction[3] = 0
    assert scorer.score_sequence("s", pairs_of(truth, prediction)) == [ObjectScore("s", 1, (1.0, 1.0), (1.0, 1.0))]


def test_a_missing_predicted_object_is_an_empty_mask():
    truth = np.zeros((3, 6, 6), np.uint8)
    truth[:, 0, 0], truth[:, 4, 4] = 1, 2
    prediction = np.where(truth == 2, 0, truth).astype(np.uint8)
    scores = scorer.score_sequence("s", pairs_of(truth, prediction))
    assert [score.region for score in scores] == [(1.0,), (0.0,)]


def test_ids_beyond_the_annotated_objects_are_an_error_that_names_the_file():
    truth = np.ones((4, 6, 6), np.uint8)
    prediction = truth.copy()
    prediction[2, 0, 0] = 3
    with pytest.raises(LilaError, match=r"ids up to 1.*found 3 in prediction/00002\.png"):
        scorer.score_sequence("s", pairs_of(truth, prediction))
    with pytest.raises(LilaError, match=r"found 3 in truth/00002\.png"):
        scorer.score_sequence("s", pairs_of(prediction, truth))


def test_sizes_that_differ_are_an_error_that_names_the_file():
    truth, prediction = np.ones((6, 7), np.uint8), np.ones((6, 8), np.uint8)
    with pytest.raises(LilaError, match=r"truth's size 7×6 .*found 8×6 in prediction/00000\.png"):
        scorer.score_sequence("s", pairs_of([truth], [prediction]))


def test_a_first_mask_without_objects_is_an_error():
    void = np.full((3, 6, 6), 255, np.uint8)
    with pytest.raises(LilaError, match=r"at least one object in the first mask truth/00000\.png, found none"):
        scorer.score_sequence("s", pairs_of(void, np.zeros_like(void)))


@pytest.mark.parametrize("n", [0, 2])
def test_too_few_frames_are_an_error(n):
    masks = np.ones((n, 6, 6), np.uint8)
    with pytest.raises(LilaError, match=rf"at least 3 frames to score in sequence s .*found {n};"):
        scorer.score_sequence("s", pairs_of(masks, masks))
