"""Features in one byte per value: the error is bounded and reported."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest

from lila_train.inference.explore import code_book, cosine_errors, pack, sample, write_page
from stores.errors import LilaError
from tests.lila_train.inference.explore.conftest import smooth

MAPS = [smooth(12, 40, 60, 0), smooth(12, 30, 30, 1)]


def test_values_come_back_within_half_a_step() -> None:
    book = code_book(MAPS, max_error=0.0)
    np.testing.assert_allclose(book.axes.T @ book.axes, np.eye(12), atol=1e-5)
    for features in MAPS:
        back = np.tensordot(book.axes, book.decode(book.encode(features)), 1)
        bound = 0.51 * np.abs(book.axes * book.step).sum(axis=1)
        assert (np.abs(back - features).max(axis=(1, 2)) <= bound).all()


def test_the_error_of_a_cosine_is_measured_and_falls_with_the_channels() -> None:
    rows, book = sample(MAPS), code_book(MAPS, max_error=0.0)
    errors = cosine_errors(rows, book.decode(book.encode(rows.T[:, None]))[:, 0].T)
    assert errors[2] > errors[5] > errors[11]
    assert errors[11] < 0.01


@pytest.mark.parametrize("width", [48, 384])
def test_as_many_directions_are_kept_as_the_error_needs(width: int) -> None:
    """Of features with a long tail of directions, as encoders have; the error is measured on all pairs."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(width, width)) * np.linspace(1, 0.1, width)[:, None] ** 2
    maps = [np.moveaxis(rng.normal(size=(20, 30, width)) @ mixing, -1, 0).astype(np.float32) for _ in range(2)]
    kept = {}
    for limit in (0.02, 0.1):
        book = code_book(maps, limit)
        kept[limit] = len(book.low)
        rows = np.concatenate([features.reshape(width, -1).T for features in maps])
        decoded = np.concatenate([book.decode(book.encode(features)).reshape(kept[limit], -1).T for features in maps])
        found, exact = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (decoded, rows))
        assert np.percentile(np.abs(found @ found.T - exact @ exact.T), 99) < 1.1 * limit
    assert kept[0.1] < kept[0.02] < width


def test_codes_are_packed_without_loss() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    differences = np.frombuffer(zlib.decompress(base64.b64decode(pack(codes))), np.uint8).reshape(codes.shape)
    summed = differences.astype(int).cumsum(axis=1).cumsum(axis=2) % 256
    np.testing.assert_array_equal(summed, codes)


def test_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LilaError, match="expected images to explore, found none"):
        write_page(tmp_path / "page.html", "none", "", [])
