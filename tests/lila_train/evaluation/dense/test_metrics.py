"""Confusion matrices and angles against values computed by hand; sums over parts equal the sum over all."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lila_train.evaluation.dense.metrics import Confusion, MeanSums, angle_errors


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def matrix(truth: torch.Tensor, prediction: torch.Tensor, n_classes: int) -> Confusion:
    """Return the matrix of a row of pixels, whose predictions are given as logits."""
    return Confusion.of(truth[None, None, None], F.one_hot(prediction, n_classes).T[None, :, None].float())


def test_metrics_by_hand():
    truth, prediction = labels(0, 0, 0, 1, 1, 255), labels(0, 0, 1, 1, 0, 1)
    found = matrix(truth, prediction, 4)
    assert found.counts.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    metrics = found.metrics()
    assert metrics["miou"] == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert metrics["pixel_accuracy"] == pytest.approx(3 / 5)
    assert metrics["absent_classes"] == 2


def test_a_class_that_is_only_predicted_is_absent_but_costs_the_others():
    metrics = matrix(labels(0, 0, 1, 1), labels(0, 2, 1, 1), 3).metrics()
    assert metrics["miou"] == pytest.approx((1 / 2 + 1) / 2)
    assert metrics["absent_classes"] == 1


def test_nothing_known_is_missing_not_zero():
    metrics = matrix(labels(255, 255), labels(0, 1), 2).metrics()
    assert metrics["miou"] is None
    assert metrics["pixel_accuracy"] is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60), st.integers(1, 5))
def test_matrices_of_parts_add(pixels, parts):
    truth, prediction = (torch.tensor(column) for column in zip(*pixels, strict=True))
    truth = torch.where(truth == 4, 255, truth)
    whole = matrix(truth, prediction, 4)
    split = [matrix(t, p, 4) for t, p in zip(truth.tensor_split(parts), prediction.tensor_split(parts), strict=True)]
    total = split[0]
    for one in split[1:]:
        total += one
    assert (total.counts == whole.counts).all()
    assert Confusion.from_json(json.loads(json.dumps(whole.to_json()))).metrics() == whole.metrics()


@pytest.mark.parametrize(
    ("one", "other", "angle"),
    [
        ((0, 0, 1), (0, 0, 2), 0),
        ((1, 0, 0), (0, 3, 0), 90),
        ((0, 1, 0), (0, -1, 0), 180),
        ((1, 1, 0), (1, 0, 0), 45),
    ],
)
def test_angles(one, other, angle):
    truth, output = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in ((*one, 1), other))
    assert angle_errors(truth, output).mean("rmse_deg") == pytest.approx(angle, abs=1e-4)


def tilted(*degrees: float) -> torch.Tensor:
    """Return a row of normals tilted from the z axis by these angles."""
    radians = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([radians.sin(), torch.zeros_like(radians), radians.cos()])[None, :, None]


def upright(known: list[float]) -> torch.Tensor:
    return torch.cat([tilted(*[0.0] * len(known)), torch.tensor(known)[None, None, None]], dim=1)


def test_angles_are_taken_per_image_and_then_averaged():
    one = angle_errors(upright([1, 1, 1, 0]), tilted(3, 4, 0, 170))
    other = angle_errors(upright([1, 1, 0, 0]), tilted(20, 26, 90, 90))
    metrics = (one + other).metrics()
    assert metrics["rmse_deg"] == pytest.approx((np.sqrt(25 / 3) + np.sqrt((400 + 676) / 2)) / 2, rel=1e-4)
    assert metrics["under_11.25"] == pytest.approx((1 + 0) / 2)
    assert metrics["under_22.5"] == pytest.approx((1 + 0.5) / 2)
    assert metrics["under_30"] == pytest.approx(1)
    assert MeanSums(json.loads(json.dumps((one + other).to_json()))).metrics() == metrics


def test_an_image_without_a_known_normal_has_no_weight():
    empty = angle_errors(upright([0, 0]), tilted(90, 90))
    assert set(empty.metrics().values()) == {None}
    assert (empty + angle_errors(upright([1]), tilted(5))).metrics()["rmse_deg"] == pytest.approx(5, rel=1e-4)


@settings(max_examples=20)
@given(st.floats(0, 89), st.floats(0, 89))
def test_a_batch_is_the_sum_of_its_images(first, second):
    batch = angle_errors(torch.cat([upright([1]), upright([1])]), torch.cat([tilted(first), tilted(second)]))
    parts = angle_errors(upright([1]), tilted(first)) + angle_errors(upright([1]), tilted(second))
    assert batch.metrics() == pytest.approx(parts.metrics())
