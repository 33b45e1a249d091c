"""Crops for training and validation: inside the image, targets along with images, functions of the position."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lila_train.evaluation.dense import data
from lila_train.evaluation.dense.data import NO_CROP, Example, ScaledCrop, TrainView, ValView
from lila_train.evaluation.dense.normals import NYU_LILA, NYU_PROBE3D
from lila_train.evaluation.dense.segmentation import ADE_150, COCO_FEATUP, COCO_JAFAR, COCO_LILA
from lila_train.evaluation.dense.training import DenseProtocol


def coordinates(height: int, width: int) -> Example:
    """Red is the column, green the row; the target holds the same numbers."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([columns, rows, torch.zeros_like(rows)]).to(torch.uint8)
    return Example(image, torch.stack([columns, rows]).float())


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 999))
def test_a_random_box_lies_inside(height, width, seed):
    top, left, h, w = data.random_box(height, width, (0.3, 1.0), (3 / 4, 4 / 3), data.generator(seed, 1))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h >= 1
    assert w >= 1


def test_boxes_have_the_requested_area_and_aspect_ratio():
    boxes = [data.random_box(400, 400, (0.5, 1.0), (3 / 4, 4 / 3), data.generator(0, n)) for n in range(300)]
    shares = np.array([h * w / 400**2 for _, _, h, w in boxes])
    ratios = np.array([w / h for _, _, h, w in boxes])
    assert shares.min() > 0.49
    assert shares.max() < 1.01
    assert shares.std() > 0.1
    assert ratios.min() > 0.74
    assert ratios.max() < 1.35


def test_image_and_target_are_cropped_alike():
    for place in range(6):
        draw = data.generator(3, 0, place)
        view = TrainView(40, area=(0.4, 0.8))
        image, target = view.apply(coordinates(90, 120), data.flip_labels, draw)
        assert image.shape == (3, 40, 40)
        assert target.shape == (2, 40, 40)
        inner = (slice(None), slice(2, -2), slice(2, -2))
        assert (image[:2] * 255 - target).abs()[inner].max() < 2.5


def test_half_of_the_views_are_mirrored():
    turned = 0
    for place in range(60):
        draw = data.generator(3, 0, place)
        image, _ = TrainView(20).apply(coordinates(30, 40), data.flip_labels, draw)
        turned += bool(image[0, :, 0].mean() > image[0, :, -1].mean())
    assert 18 < turned < 42


def test_a_view_is_a_function_of_its_position():
    views = [
        TrainView(20, jitter=(0.3, 0.3, 0.2)).apply(
            coordinates(30, 40), data.flip_labels, data.generator(seed, 1, place)
        )[0]
        for seed, place in ((0, 1), (0, 1), (0, 2), (1, 1))
    ]  # fmt: skip
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[3])


def test_jitter_changes_colors_and_stays_in_range():
    gray = Example(torch.full((3, 20, 20), 128, dtype=torch.uint8), torch.zeros(1, 20, 20))
    means = []
    for place in range(20):
        view = TrainView(20, jitter=(0.3, 0.0, 0.0))
        image, _ = view.apply(gray, data.flip_labels, data.generator(0, 0, place))
        assert 0 <= image.min() <= image.max() <= 1
        means.append(image.mean().item() * 255 / 128)
    assert 0.69 < min(means) < 0.9
    assert 1.1 < max(means) < 1.31


@pytest.mark.parametrize(("size", "shape"), [((60, 90), (3, 20, 20)), ((24, 24), (3, 20, 20)), ((90, 60), (3, 20, 20))])
def test_validation_crops_the_center(size, shape):
    image, target = ValView(short_side=24, side=20).apply(coordinates(*size))
    assert image.shape == shape
    centre = target[:, 9:11, 9:11].mean(dim=(1, 2))
    assert (centre - torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2])).abs().max() < 3


def test_a_window_larger_than_the_image_is_the_image():
    image, target = ValView(short_side=24, side=1000).apply(coordinates(30, 50))
    assert image.shape == (3, 24, 40)
    assert target.shape == (2, 24, 40)


def test_a_scaled_crop_is_a_square_of_the_enlarged_or_padded_image():
    mirrored, padded = 0, 0
    for place in range(60):
        draw = data.generator(0, 0, place)
        image, target = ScaledCrop(24).apply(coordinates(30, 40), data.flip_labels, draw)
        assert image.shape == (3, 24, 24)
        known = target[0] != 255
        assert (image[:, ~known] == 0).all()
        padded += bool((~known).any())
        columns = image[0].amax(dim=0)[known.any(dim=0)]
        mirrored += bool(columns[0] > columns[-1])
    assert 10 < padded < 40
    assert 18 < mirrored < 42


def test_a_scaled_crop_of_fixed_scale_is_that_part_of_the_image():
    """Twice a side of 10 is the short side that the image has."""
    places = set()
    for place in range(20):
        draw = data.generator(1, 0, place)
        view = ScaledCrop(10, scale=(2.0, 2.0))
        image, target = view.apply(coordinates(20, 30), data.flip_labels, draw)
        torch.testing.assert_close(image[:2] * 255, target)
        columns, rows = sorted(target[0].unique().tolist()), sorted(target[1].unique().tolist())
        assert columns == list(range(int(columns[0]), int(columns[0]) + 10))
        assert rows == list(range(int(rows[0]), int(rows[0]) + 10))
        places.add((columns[0], rows[0]))
    assert len(places) > 15


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Four neighbors of each pixel's center, whatever the scale: no antialias."""
    for axis, new in ((1, height), (2, width)):
        old = image.shape[axis]
        places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(places).astype(int)
        part = (places - low).reshape(-1, 1) if axis == 1 else places - low
        image = image.take(low, axis) * (1 - part) + image.take(np.minimum(low + 1, old - 1), axis) * part
    return image


@pytest.mark.parametrize("protocol", [NYU_LILA, COCO_LILA, NYU_PROBE3D, COCO_FEATUP, COCO_JAFAR, ADE_150])
def test_views_of_the_published_code_are_not_antialiased(protocol: DenseProtocol) -> None:
    short_side, image = protocol.val_view.short_side, torch.randint(256, (3, 700, 800), dtype=torch.uint8)
    view = replace(protocol.val_view, side=NO_CROP)
    resized, _ = view.apply(Example(image, torch.zeros(1, 700, 800)))
    exact = bilinear(image.numpy() / 255, short_side, round(800 * short_side / 700))
    same = np.abs(resized.numpy() - exact).max() < 2e-4
    assert same == protocol.name.endswith("@lila")


def test_a_training_view_follows_its_protocol() -> None:
    image, view = torch.randint(256, (3, 700, 800), dtype=torch.uint8), NYU_LILA.train_view
    assert isinstance(view, TrainView)
    view = replace(view, side=70, area=(1.0, 1.0), ratio=(8 / 7, 8 / 7), jitter=(0.0, 0.0, 0.0))
    resized, _ = view.apply(Example(image, torch.zeros(1, 700, 800)), data.flip_labels, np.random.default_rng(0))
    exact = bilinear(image.numpy() / 255, 70, 70)
    assert min(np.abs(resized.numpy() - each).max() for each in (exact, exact[..., ::-1])) < 2e-4
