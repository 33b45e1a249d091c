"""Rendered scenes: the ground truth must agree with the pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lila_cues.demo.dataset import SceneSeed, Split, visible_scene
from lila_cues.demo.scenes import Truth, render_scene
from lila_cues.demo.textures import MARGIN, PATTERNS, SHAPES, colored, draw_palette, signed_distance
from tests.lila_cues.demo.conftest import Clip


def _sampled(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(image, x + flow[0], y + flow[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _away_from_edges(truth: Truth, t: int) -> np.ndarray:
    """Pixels whose 5×5 neighbourhood shows one layer: edges are smoothed, so their color is of two layers."""
    layers = truth.layers[t]
    window = np.ones((5, 5), np.uint8)
    return cv2.dilate(layers, window) == cv2.erode(layers, window)


@pytest.mark.parametrize(("t", "other"), [(0, 1), (1, 4), (5, 2)])
def test_a_frame_sampled_along_the_flow_is_the_other_frame(clips: list[Clip], t: int, other: int) -> None:
    """Photometric residual in grey levels: small where visible, and much larger without the flow."""
    for clip in clips:
        flow, visible = clip.truth.flow(t, other), clip.truth.visible(t, other) & _away_from_edges(clip.truth, t)
        here = clip.rgb[t].astype(float)
        residual = np.abs(_sampled(clip.rgb[other], flow).astype(float) - here)[visible]
        unmoved = np.abs(clip.rgb[other].astype(float) - here)[visible]
        assert visible.mean() > 0.7
        assert residual.mean() < 2.5
        assert unmoved.mean() > 2 * residual.mean()


def test_flow_there_and_back_is_the_identity(clips: list[Clip]) -> None:
    for clip in clips:
        forward, backward = clip.truth.flow(0, 3), clip.truth.flow(3, 0)
        back = np.moveaxis(_sampled(np.moveaxis(backward, 0, -1), forward), -1, 0)
        sure = clip.truth.visible(0, 3) & _away_from_edges(clip.truth, 0)
        error = np.linalg.norm(forward + back, axis=0)[sure]
        assert np.percentile(error, 99) < 0.1
        assert np.abs(clip.truth.flow(2, 2)).max() < 1e-3


def test_the_nearest_layer_is_visible(clips: list[Clip]) -> None:
    """Depth order against occlusion: of all layers that reach a pixel's ray inside their outline, the nearest wins."""
    for clip in clips:
        seen, depth = clip.truth.layers[2], 100 / clip.truth.depth(2)
        for index, layer in enumerate(clip.scene.layers):
            inverse = np.linalg.inv(clip.truth.homographies[2, index])
            for y, x in np.random.default_rng(index).integers((0, 0), seen.shape, (60, 2)):
                u, v, inverse_depth = inverse @ (x, y, 1.0)
                inside = layer.distance is None or _inside(layer.distance, u / inverse_depth, v / inverse_depth)
                if inside:
                    assert depth[y, x] <= 1 / inverse_depth + 1e-5


def _inside(distance: np.ndarray, u: float, v: float) -> bool:
    side = len(distance)
    column, row = round(u), round(v)
    return 0 <= column < side and 0 <= row < side and bool(distance[row, column] > 1)


def test_occlusion_hides_background(clips: list[Clip]) -> None:
    hidden = [int((~clip.truth.visible(0, 5) & (clip.truth.layers[0] == 0)).sum()) for clip in clips]
    assert max(hidden) > 100
    for clip in clips:
        assert clip.truth.visible(3, 3).all()


def test_objects_are_annotated_one_to_n_and_all_seen_in_the_first_frame(clips: list[Clip]) -> None:
    for clip in clips:
        first = clip.truth.masks()[0]
        labels = [label for label in clip.scene.labels if label]
        assert 2 <= len(labels) <= 4
        assert sorted(labels) == list(range(1, len(labels) + 1))
        assert all((first == label).sum() >= 500 for label in labels)


def test_depth_covers_near_and_far_and_is_in_the_range_of_a_depth_network(clips: list[Clip]) -> None:
    for clip in clips:
        q = clip.truth.depth(0)
        assert 4 < q.min() < 20
        assert 25 < q.max() < 250


def test_objects_move_differently_from_the_ground(clips: list[Clip]) -> None:
    for clip in clips:
        flow, masks = clip.truth.flow(0, 4), clip.truth.masks()[0]
        ground = np.median(flow[:, clip.truth.layers[0] == 0], axis=1)
        own = [np.median(flow[:, masks == label], axis=1) for label in range(1, masks.max() + 1)]
        assert max(np.linalg.norm(motion - ground) for motion in own) > 2
        assert np.linalg.norm(flow, axis=0).max() < 60


def test_objects_have_many_colors(clips: list[Clip]) -> None:
    """Every object has a wide range of colors: its spread is a good part of the image's."""
    spreads = [
        clip.rgb[0][clip.truth.masks()[0] == label].std(axis=0).max()
        for clip in clips
        for label in range(1, clip.truth.masks()[0].max() + 1)
    ]
    assert np.median(spreads) > 30
    assert min(spreads) > 10


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others() -> None:
    first, again = (render_scene(visible_scene(SceneSeed(3, Split.TRAIN, 1), 3)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1].homographies, again[1].homographies)
    for other in (SceneSeed(4, Split.TRAIN, 1), SceneSeed(3, Split.TRAIN, 2), SceneSeed(3, Split.HELDOUT, 1)):
        assert (render_scene(visible_scene(other, 3))[0] != first[0]).mean() > 0.5


def test_scenes_of_different_splits_never_share_a_stream() -> None:
    positions = [SceneSeed(seed, split, i) for seed in (0, 1, 2) for split in Split for i in range(8)]
    draws = {tuple(position.generator().integers(0, 2**63, 4)) for position in positions}
    assert len(draws) == len(positions)


@pytest.mark.parametrize("draw", SHAPES, ids=lambda draw: draw.__name__)
def test_a_shape_fits_its_square_and_its_distance_has_unit_slope(draw) -> None:  # type: ignore[no-untyped-def]
    for seed in range(5):
        shape = draw(np.random.default_rng(seed))
        assert all(np.abs(outline).max() <= 1 + 1e-9 for outline in shape)
        distance = signed_distance(shape, 96)
        assert (distance > 0).mean() > 0.1
        assert max(distance[0].max(), distance[:, -1].max()) < 0
        slope = np.hypot(*np.gradient(distance))
        assert abs(np.median(slope) - 1) < 0.1


def test_the_distance_of_a_circle_is_known() -> None:
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    distance = signed_distance((np.stack([np.cos(angle), np.sin(angle)], axis=-1),), 128)
    cells_per_unit = 128 / (2 * MARGIN)
    y, x = (np.mgrid[:128, :128] + 0.5) / cells_per_unit - MARGIN
    np.testing.assert_allclose(distance, (1 - np.hypot(x, y)) * cells_per_unit, atol=1.0)
    assert abs((distance > 0).sum() - np.pi * cells_per_unit**2) < 0.01 * np.pi * cells_per_unit**2


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_a_texture_has_many_colors(pattern) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(11)
    values = pattern(rng, 96)
    assert values.shape == (96, 96)
    assert ((values >= 0) & (values <= 1)).all()
    texture = colored(rng, values, draw_palette(rng))
    assert ((texture >= 0) & (texture <= 1)).all()
    assert texture.std(axis=(0, 1)).max() > 0.05
