"""Pictures of cues and features: what a color means, and that a PNG reader gets back what was written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lila_cues.viz import pictures
from stores.errors import StoreError
from tests.full_disk import full_disk


def _uniform_flow(x: float, y: float) -> np.ndarray:
    return np.broadcast_to(np.array([x, y], np.float32)[:, None, None], (2, 4, 5)).copy()


@pytest.mark.parametrize(
    ("x", "y", "color"),
    [(0, 0, (255, 255, 255)), (3, 0, (255, 0, 0)), (0, 3, (255, 234, 0)), (-3, 0, (0, 197, 255))],
)
def test_a_flow_has_the_color_of_its_direction(x: float, y: float, color: tuple[int, int, int]) -> None:
    picture = pictures.flow_picture(_uniform_flow(x, y), max_px=3.0)
    assert picture.shape == (4, 5, 3)
    np.testing.assert_allclose(picture[2, 2].astype(int), color, atol=1)


def test_shorter_flow_is_paler_and_longer_flow_darker() -> None:
    half, full, double = (pictures.flow_picture(_uniform_flow(x, 0), max_px=4.0)[0, 0].astype(int) for x in (2, 4, 8))
    assert list(half) == [255, 128, 128]
    assert list(full) == [255, 0, 0]
    assert list(double) == [191, 0, 0]


def test_a_flow_picture_scales_to_its_flow() -> None:
    flow = np.random.default_rng(0).normal(size=(2, 20, 30)).astype(np.float32)
    np.testing.assert_array_equal(pictures.flow_picture(flow), pictures.flow_picture(100 * flow))


def test_still_and_missing_flow_have_a_scale() -> None:
    still, missing = _uniform_flow(0, 0), _uniform_flow(np.nan, 0)
    assert pictures.flow_scale(still) > 0
    assert pictures.flow_scale(missing) > 0
    assert pictures.flow_scale(missing, _uniform_flow(3, 4)) == 5
    assert (pictures.flow_picture(still, pictures.flow_scale(still, still)) == 255).all()


def test_missing_flow_is_gray() -> None:
    flow = _uniform_flow(1, 0)
    flow[:, 1, 2] = np.nan
    picture = pictures.flow_picture(flow, max_px=1.0)
    assert tuple(picture[1, 2]) == (128, 128, 128)
    assert tuple(picture[0, 0]) == (255, 0, 0)
    assert (pictures.flow_picture(np.full((2, 3, 3), np.nan)) == 128).all()


def test_the_wheel_shows_the_motion_from_its_centre() -> None:
    wheel = pictures.flow_wheel(65)
    assert tuple(wheel[32, 32]) == (255, 255, 255)
    np.testing.assert_allclose(wheel[32, 64].astype(int), (255, 0, 0), atol=2)
    assert tuple(wheel[0, 0]) == (255, 255, 255)
    assert wheel[64, 32, 2] < 10  # yellow at the bottom


def test_confidence_is_gray_where_flow_is_used_and_orange_elsewhere() -> None:
    picture = pictures.confidence_picture(np.array([[1.0, 0.6, 0.4, np.nan]]))
    assert picture[0].tolist() == [[255] * 3, [153] * 3, *[pictures.EXCLUDED.tolist()] * 2]


def test_near_is_lighter_than_far_and_holes_are_gray() -> None:
    q = np.array([[4.0, 40.0, 400.0, np.nan]])
    picture = pictures.depth_picture(q)
    lightness = picture[0].astype(int).sum(axis=-1)
    assert lightness[0] < lightness[1] < lightness[2]
    assert tuple(picture[0, 3]) == (128, 128, 128)
    assert (pictures.depth_picture(np.full((2, 2), np.nan)) == 128).all()


def test_a_constant_depth_is_one_color() -> None:
    picture = pictures.depth_picture(np.full((3, 3), 7.0))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_principal_components_are_those_of_the_data() -> None:
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(12, 3)))[0]
    rows = rng.normal(size=(500, 3)) * (9, 5, 2) @ axes.T + 3.0
    basis = pictures.pca_basis(rows)
    overlap = np.abs(axes.T @ basis.weights) / np.linalg.norm(basis.weights, axis=0)
    np.testing.assert_allclose(overlap, np.eye(3), atol=0.05)
    shown = rows @ basis.weights + basis.offset
    np.testing.assert_allclose(np.percentile(shown, (1, 99), axis=0), [[0] * 3, [1] * 3], atol=1e-9)


def test_outliers_do_not_reduce_the_contrast() -> None:
    features = np.random.default_rng(2).normal(size=(5, 40, 40))
    spread = pictures.pca_picture(features).std()
    features[:, 0, 0] = 60.0
    assert pictures.pca_picture(features).std() > 0.7 * spread


def test_one_basis_gives_equal_features_equal_colors() -> None:
    features = np.random.default_rng(3).normal(size=(6, 8, 9)).astype(np.float32)
    basis = pictures.pca_basis(features.reshape(6, -1).T)
    np.testing.assert_array_equal(
        pictures.pca_picture(features, basis)[:4], pictures.pca_picture(features[:, :4], basis)
    )


def test_features_of_two_channels_and_missing_ones_are_shown() -> None:
    features = np.random.default_rng(4).normal(size=(2, 6, 7))
    features[0, 2, 3] = np.nan
    picture = pictures.pca_picture(features)
    assert tuple(picture[2, 3]) == (128, 128, 128)
    assert (pictures.pca_picture(np.full((4, 3, 3), np.nan)) == 128).all()


def test_the_palette_is_that_of_davis() -> None:
    palette = pictures.label_palette()
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 15: (192, 128, 128), 255: (224, 224, 192)}
    assert {label: tuple(palette[label].tolist()) for label in known} == known


def test_an_overlay_tints_objects_and_leaves_the_background() -> None:
    rgb = np.full((12, 12, 3), 100, np.uint8)
    labels = np.zeros((12, 12), np.uint8)
    labels[3:9, 3:9] = 1
    painted = pictures.mask_overlay(rgb, labels)
    assert tuple(painted[0, 0]) == (100, 100, 100)
    assert tuple(painted[6, 6]) == (114, 50, 50)
    assert tuple(painted[3, 5]) == (255, 255, 255)


def test_a_png_reads_back_as_written(tmp_path: Path) -> None:
    rgb = np.random.default_rng(5).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    pictures.write_png(tmp_path / "picture.png", rgb)
    with Image.open(tmp_path / "picture.png") as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), rgb)


def test_an_indexed_png_keeps_labels_and_palette(tmp_path: Path) -> None:
    labels = np.arange(77, dtype=np.uint8).reshape(7, 11)
    pictures.write_label_png(tmp_path / "labels.png", labels)
    with Image.open(io.BytesIO((tmp_path / "labels.png").read_bytes())) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        assert image.getpalette()[:768] == pictures.label_palette().reshape(-1).tolist()


@pytest.mark.parametrize("labels", [False, True])
def test_a_full_disk_leaves_no_half_picture(tmp_path: Path, labels: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    write, values = (pictures.write_label_png, noise[..., 0]) if labels else (pictures.write_png, noise)
    with pytest.raises(StoreError, match=r"no space left in .* while writing a\.png"), full_disk():
        write(tmp_path / "a.png", values)
    assert not list(tmp_path.iterdir())
