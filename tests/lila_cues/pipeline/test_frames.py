"""The base crop and what is cut with it, against brute-force loops and ramps of known values."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lila_cues.pipeline.frames import FULL, Box, DepthFiles, base_box, crop, inverse_depth
from stores.errors import LilaError

SIDES = st.integers(2, 2000)


@given(SIDES, SIDES, st.integers(1, 500), st.integers(1, 500))
def test_the_base_box_is_inside_centered_and_as_large_as_possible(height: int, width: int, y: int, x: int) -> None:
    box = base_box((height, width), (y, x))
    top, bottom, left, right = box.top * height, box.bottom * height, box.left * width, box.right * width
    assert -1e-9 <= top < bottom <= height + 1e-9
    assert -1e-9 <= left < right <= width + 1e-9
    assert abs(top - (height - bottom)) <= 1 + 1e-9
    assert abs(left - (width - right)) <= 1 + 1e-9
    assert bottom - top > height - 1 or right - left > width - 1
    assert abs((bottom - top) - (right - left) * y / x) <= max(1, y / x) + 1e-9


def test_a_wide_frame_loses_its_sides() -> None:
    assert base_box((480, 854), (480, 480)) == Box(0.0, 187 / 854, 1.0, 667 / 854)
    assert base_box((854, 480), (480, 480)) == Box(187 / 854, 0.0, 667 / 854, 1.0)


def test_shrinking_takes_the_mean_over_the_area() -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.float32)
    box = base_box((60, 90), (20, 20))
    small = crop(image, box, (20, 20))
    expected = image[:, 15:75].reshape(20, 3, 20, 3, 3).mean((1, 3))
    np.testing.assert_allclose(small, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [(7, 11), (33, 40), (50, 51)])
def test_a_ramp_stays_a_ramp_at_any_resolution(size: tuple[int, int]) -> None:
    rows, columns = np.mgrid[0:24, 0:32].astype(np.float32) + 0.5
    box = Box(0.25, 0.25, 0.75, 0.75)
    for ramp, sides, axis in ((rows / 24, size, 0), (columns / 32, size, 1)):
        values = crop(ramp, box, size)
        expected = 0.25 + 0.5 * (np.arange(sides[axis]) + 0.5) / sides[axis]
        found = values.mean(axis=1 - axis)
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_pattern_too_fine_for_the_grid_turns_grey() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (96, 48))[..., None].repeat(3, axis=2)
    assert np.ptp(crop(stripes, FULL, (24, 24)).astype(int)) <= 2


def test_inverse_depth_of_millimetres() -> None:
    z = np.full((6, 8), 4000, np.uint16)
    np.testing.assert_allclose(inverse_depth(z, FULL, (12, 16)), 25.0, rtol=1e-6)
    np.testing.assert_allclose(inverse_depth(z, FULL, (3, 4)), 25.0, rtol=1e-6)


def test_holes_are_infinitely_far_and_do_not_bleed() -> None:
    z = np.full((8, 8), 2000, np.uint16)
    z[:, 4:] = 0
    q = inverse_depth(z, FULL, (32, 32))
    np.testing.assert_allclose(q[:, :14], 50.0, rtol=1e-6)
    assert np.all(q[:, 18:] == 0)
    assert set(np.unique(q.round(3))) <= {0.0, 50.0}


def test_a_cell_is_known_if_half_of_it_is() -> None:
    z = np.zeros((4, 8), np.uint16)
    z[:2, :2] = 1000  # a quarter of the left half of the map
    z[:3, 4:] = 1000  # three quarters of the right half
    assert inverse_depth(z, FULL, (1, 2)).tolist() == [[0.0, 100.0]]


def test_depth_maps_are_found_by_clip_and_frame(tmp_path: Path) -> None:
    for folder in ("a.mp4", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "00003.png"), np.full((4, 5), 1000, np.uint16))
    files = DepthFiles(tmp_path)
    for clip in ("a.mp4", "b.mp4", "b"):
        np.testing.assert_allclose(files.read(clip, "00003", FULL, (2, 2)), 100.0)
    with pytest.raises(LilaError, match=r"depth map of frame 00004 at .*b/00004\.png, found none; .*--depth files:DIR"):
        files.read("b", "00004", FULL, (2, 2))
    cv2.imwrite(str(tmp_path / "b" / "00005.png"), np.zeros((4, 5), np.uint8))
    with pytest.raises(LilaError, match="expected a 16-bit gray PNG in millimeters, found mode L"):
        files.read("b", "00005", FULL, (2, 2))
    (tmp_path / "b" / "00006.png").touch()
    with pytest.raises(LilaError, match=r"00006\.png: expected an image, found an empty file"):
        files.read("b", "00006", FULL, (2, 2))
    with pytest.raises(LilaError, match=r"expected depth maps in .*, found no such folder"):
        DepthFiles(tmp_path / "absent")
