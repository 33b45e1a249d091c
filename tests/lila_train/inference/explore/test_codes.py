"""Features in one byte per value: the error is bounded and reported."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest

from lila_train.inference.explore import code_book, color_map, cosine_error, pack, sample, write_page
from stores.errors import LilaError
from tests.lila_train.inference.explore.conftest import smooth

MAPS = [smooth(12, 40, 60, 0), smooth(12, 30, 30, 1)]


def test_values_come_back_within_half_a_step() -> None:
    book = code_book(MAPS, channels=12)
    np.testing.assert_allclose(book.axes.T @ book.axes, np.eye(12), atol=1e-5)
    for features in MAPS:
        back = np.tensordot(book.axes, book.decode(book.encode(features)), 1)
        bound = 0.51 * np.abs(book.axes * book.step).sum(axis=1)
        assert (np.abs(back - features).max(axis=(1, 2)) <= bound).all()


def test_the_error_of_a_cosine_is_measured_and_falls_with_the_channels() -> None:
    rows, errors = sample(MAPS), []
    for channels in (3, 6, 12):
        book = code_book(MAPS, channels)
        errors.append(cosine_error(rows, book.decode(book.encode(rows.T[:, None]))[:, 0].T))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_codes_are_packed_without_loss() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    differences = np.frombuffer(zlib.decompress(base64.b64decode(pack(codes))), np.uint8).reshape(codes.shape)
    summed = differences.astype(int).cumsum(axis=1).cumsum(axis=2) % 256
    np.testing.assert_array_equal(summed, codes)


def test_colors_fill_their_range() -> None:
    rows = sample(MAPS)
    found = color_map(rows)
    shown = rows @ np.array(found["weights"]).T + found["offset"]
    np.testing.assert_allclose(np.percentile(shown, (1, 99), axis=0), [[0] * 3, [1] * 3], atol=1e-3)


def test_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LilaError, match="expected images to explore, found none"):
        write_page(tmp_path / "page.html", "none", "", [], 3)
