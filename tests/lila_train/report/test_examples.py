"""Pages of examples: what is kept of a run is shown, and the errors of directions are measured from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lila_train.evaluation.dense.task import draw_classes, draw_directions, example_indices, keep_example
from lila_train.report import sections
from tests.lila_cues.viz.test_html import check_self_contained, gallery_html


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_four_examples_are_spread_over_the_set():
    assert example_indices(654) == [0, 218, 435, 653]
    assert example_indices(2) == [0, 1]
    assert example_indices(1) == [0]


def test_classes_are_kept_as_indices(tmp_path: Path):
    logits = torch.zeros(3, 4, 6)
    logits[2, :, 3:] = 1
    target = torch.tensor([0, 0, 0, 2, 2, 255], dtype=torch.uint8).expand(1, 4, 6)
    keep_example(tmp_path, 7, "lila", torch.full((3, 4, 6), 0.5), draw_classes(target), draw_classes(logits))
    with Image.open(tmp_path / "00007/lila.png") as picture:
        assert picture.mode == "P"
        assert np.asarray(picture)[0].tolist() == [0, 0, 0, 2, 2, 2]
    assert read(tmp_path / "00007/truth.png")[0].tolist() == [0, 0, 0, 2, 2, 255]
    assert read(tmp_path / "00007/image.png")[0, 0].tolist() == [128, 128, 128]


def test_directions_survive_8_bits_within_a_degree(tmp_path: Path):
    draw = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(3, 16, 16, generator=draw), dim=0)
    target = torch.cat([truth, torch.ones(1, 16, 16)])
    target[:, 0] = 0
    keep_example(tmp_path, 0, "encoder", torch.zeros(3, 16, 16), draw_directions(target), draw_directions(5 * truth))
    stored, found = read(tmp_path / "00000/truth.png"), read(tmp_path / "00000/encoder.png")
    assert not stored[0].any()
    assert sections.stored_angles_deg(stored, found)[1:].max() < 1
    np.testing.assert_allclose(found / 127.5 - 1, truth.movedim(0, -1), atol=0.005)


def test_large_images_are_thinned_out(tmp_path: Path):
    target = torch.zeros(1, 700, 1300, dtype=torch.uint8)
    keep_example(
        tmp_path, 0, "lila", torch.zeros(3, 700, 1300), draw_classes(target), draw_classes(torch.zeros(2, 700, 1300))
    )
    assert read(tmp_path / "00000/truth.png").shape == (234, 434)


@pytest.mark.parametrize(
    ("one", "other", "angle"),
    [
        ([255, 128, 128], [255, 128, 128], 0),
        ([255, 128, 128], [128, 255, 128], 90),
        ([255, 128, 128], [0, 128, 128], 180),
    ],
)
def test_angles_between_stored_directions(one, other, angle):
    pictures = (np.array(values, np.uint8).reshape(1, 1, 3) for values in (one, other))
    assert sections.stored_angles_deg(*pictures)[0, 0] == pytest.approx(angle, abs=1)


def test_errors_go_from_dark_to_light_and_the_unknown_is_grey():
    errors = np.array([[0.0, 20.0, 40.0, 60.0, 170.0, 10.0]])
    known = np.array([[True] * 5 + [False]])
    picture = sections.error_picture(errors, known)[0].astype(int)
    brightness = picture.sum(axis=1)
    assert (np.diff(brightness[:4]) > 0).all()
    assert picture[3].tolist() == picture[4].tolist()
    assert picture[5].tolist() == [128, 128, 128]


def test_a_page_of_each_kind(tmp_path: Path):
    image = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(1, 8, 12, dtype=torch.uint8)
    logits = torch.zeros(2, 8, 12)
    logits[1, :, 9:] = 1
    normal = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1).expand(3, 8, 12)
    tilted = torch.tensor([0.0, -1.0, -1.0]).view(3, 1, 1).expand(3, 8, 12)
    for head in ("encoder", "lila"):
        keep_example(tmp_path / "a/examples", 0, head, image, draw_classes(target), draw_classes(logits))
        known = torch.cat([normal, torch.ones(1, 8, 12)])
        keep_example(tmp_path / "b/examples", 0, head, image, draw_directions(known), draw_directions(tilted))
    classes = gallery_html(sections.example_section(tmp_path / "a", ["encoder", "lila"], "ade20k150"))
    assert classes.count("<img") == 4
    assert classes.count("75.0 % of pixels right") == 2
    directions = gallery_html(sections.example_section(tmp_path / "b", ["encoder", "lila"], "nyuv2"))
    assert directions.count("<img") == 6
    assert directions.count("mean 45") == 2
    check_self_contained(f"<html>{classes}{directions}</html>")
