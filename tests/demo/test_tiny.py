"""The tiny networks: what ships is what was recorded and does its job; what trains them is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from lila_cues.demo import pretext, train_tiny
from lila_cues.demo.pretext import Crops, contrast_loss, depth_loss, draw_crops, picture_loss, view_grid
from lila_cues.networks import tiny
from lila_cues.networks.weights import file_sha256
from tests.demo.conftest import Clip

SMALL = [f"--{name}=2" for name in ("scenes", "check-scenes", "encoder-steps", "depth-steps", "batch")]


def test_the_weights_are_the_recorded_ones_and_small() -> None:
    record = tiny.record()
    files = (tiny.ENCODER_WEIGHTS, tiny.DEPTH_WEIGHTS)
    assert set(record) == {path.name for path in files}
    for path in files:
        assert record[path.name]["sha256"] == file_sha256(path)
        assert record[path.name]["licence"] == "apache-2.0"
        assert "train_tiny" in str(record[path.name]["command"])
    assert sum(path.stat().st_size for path in tiny.WEIGHTS.iterdir()) < 3e6


@pytest.mark.parametrize(("height", "width"), [(112, 112), (272, 360), (56, 24)])
def test_the_encoder_takes_any_multiple_of_its_patch(height: int, width: int) -> None:
    network = tiny.tiny_encoder()
    assert not network.training
    with torch.inference_mode():
        features = network.forward_features(torch.rand(2, 3, height, width))
    assert features.shape == (2, height * width // tiny.PATCH_SIZE**2, tiny.WIDTH)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize(("height", "width"), [(240, 320), (224, 224), (97, 131), (33, 200)])
def test_the_depth_network_takes_any_size(height: int, width: int) -> None:
    network = tiny.tiny_depth()
    assert not network.training
    with torch.inference_mode():
        q = network(torch.rand(2, 3, height, width))
    assert q.shape == (2, height, width)
    assert ((q > 0) & (q < 2000)).all()


def test_depth_on_held_out_scenes_is_ordered_as_the_truth(clips: list[Clip]) -> None:
    network = tiny.tiny_depth()
    for clip in clips:
        with torch.inference_mode():
            q = network(torch.from_numpy(clip.rgb[3]).permute(2, 0, 1)[None].float() / 255)[0].numpy()
        assert spearmanr(q.ravel()[::5], clip.truth.depth(3).ravel()[::5]).statistic > 0.7


def _images(clips: list[Clip]) -> torch.Tensor:
    return torch.from_numpy(np.stack([clip.rgb[0] for clip in clips])).permute(0, 3, 1, 2).float() / 255


def _found_again(network: torch.nn.Module, images: torch.Tensor, crops: tuple[Crops, Crops]) -> float:
    """Share of the first views' patches whose most similar patch of all second views lies at the same point."""
    with torch.inference_mode():
        first, second = (pretext.tokens(network, crop.cut(images, pretext.VIEW)) for crop in crops)
    batch, count, _ = first.shape
    similarity = torch.nn.functional.normalize(first.flatten(0, 1), dim=-1) @ (
        torch.nn.functional.normalize(second.flatten(0, 1), dim=-1).T
    )
    frame, patch = similarity.argmax(dim=1).div(count, rounding_mode="floor"), similarity.argmax(dim=1) % count
    there = crops[1].to_view(crops[0].to_frame(view_grid(14).expand(batch, -1, -1))).flatten(0, 1)
    near = (view_grid(14)[0, patch] - there).abs().amax(dim=-1) < 1.5 * 2 / 14
    shown = there.abs().amax(dim=-1) < 1
    right = near & (frame == torch.arange(batch).repeat_interleave(count))
    return float(right[shown].float().mean())


def test_features_find_a_point_again_in_another_view(clips: list[Clip]) -> None:
    """Another size, place and side: at the same point more often than without training."""
    crops = draw_crops(np.random.default_rng(0), len(clips), 240, 320)
    trained = _found_again(tiny.tiny_encoder(), _images(clips), crops)
    assert trained > 0.25
    torch.manual_seed(0)
    assert trained > 1.3 * _found_again(tiny.encoder().eval(), _images(clips), crops)


def test_crops_cut_what_they_say() -> None:
    """On a picture whose channels are its own coordinates, a crop shows the coordinates of its points."""
    y, x = torch.meshgrid((torch.arange(240) + 0.5) / 120 - 1, (torch.arange(320) + 0.5) / 160 - 1, indexing="ij")
    ramp = torch.stack([x, y])[None].expand(6, -1, -1, -1)
    for crops in draw_crops(np.random.default_rng(3), 6, 240, 320):
        assert ((crops.centre.abs() + crops.half) <= 1 + 1e-6).all()
        points = crops.to_frame(view_grid(14).expand(6, -1, -1))
        shown = crops.cut(ramp, 14).flatten(2).transpose(1, 2)
        inside = points.abs().amax(dim=-1) < 0.99
        torch.testing.assert_close(shown[inside], points[inside], atol=1e-4, rtol=0)
        torch.testing.assert_close(crops.to_view(points), view_grid(14).expand(6, -1, -1), atol=1e-5, rtol=0)


def _whole_frame(batch: int) -> Crops:
    return Crops(centre=torch.zeros(batch, 2), half=torch.ones(batch, 2), mirror=torch.ones(batch))


def test_contrast_is_least_where_equal_points_agree_and_others_differ() -> None:
    """One feature per point, the same in both views: no doubt is left; all alike: ln of the number of choices."""
    crops = (_whole_frame(2), _whole_frame(2))
    distinct = torch.eye(2 * 16).reshape(2, 16, 32)
    chosen = torch.ones(2, 16, dtype=torch.bool)
    assert contrast_loss(distinct, distinct, crops, chosen) < 0.01
    swapped = distinct.flip(0)
    assert contrast_loss(distinct, swapped, crops, chosen) > 9
    alike = contrast_loss(torch.ones(2, 16, 3), torch.ones(2, 16, 3), crops, chosen)
    choices = [32 - len([1 for b in range(16) if b != a and _distance(a, b) < 1.5]) for a in range(16)]
    assert alike.item() == pytest.approx(np.mean(np.log(choices)), abs=1e-5)


def _distance(a: int, b: int) -> float:
    return float(np.hypot(a % 4 - b % 4, a // 4 - b // 4))


def test_contrast_follows_a_mirrored_view() -> None:
    mirrored = Crops(centre=torch.zeros(1, 2), half=torch.ones(1, 2), mirror=-torch.ones(1))
    distinct = torch.eye(16)[None]
    across = distinct.reshape(1, 4, 4, 16).flip(2).reshape(1, 16, 16)
    chosen = torch.ones(1, 16, dtype=torch.bool)
    assert contrast_loss(distinct, across, (_whole_frame(1), mirrored), chosen) < 0.01


def test_the_picture_of_a_patch_is_its_own_pixels() -> None:
    images = torch.rand(1, 3, 16, 16)
    first = images[0, :, :8, 8:].reshape(3, 4, 2, 4, 2).mean(dim=(2, 4)).reshape(-1)
    pictures = torch.zeros(1, 4, 48)
    before = picture_loss(pictures, images)
    pictures[0, 1] = first
    assert picture_loss(pictures, images).item() == pytest.approx((before - first.mean() / 4).item(), abs=1e-6)


def test_depth_loss_is_zero_at_the_truth_and_counts_ratios() -> None:
    truth = torch.rand(2, 8, 9) * 50 + 5
    assert depth_loss(truth, truth) == 0
    assert depth_loss(2 * truth, truth).item() == pytest.approx(np.log(2), abs=1e-5)


def test_the_training_script_writes_loadable_weights_and_their_record(tmp_path: Path) -> None:
    train_tiny.main(["--out", str(tmp_path / "a"), *SMALL])
    train_tiny.main(["--out", str(tmp_path / "b"), *SMALL])
    record = json.loads((tmp_path / "a" / tiny.RECORD.name).read_text())
    for path, load in ((tiny.ENCODER_WEIGHTS, tiny.tiny_encoder), (tiny.DEPTH_WEIGHTS, tiny.tiny_depth)):
        assert record[path.name]["sha256"] == file_sha256(tmp_path / "a" / path.name)
        assert file_sha256(tmp_path / "a" / path.name) == file_sha256(tmp_path / "b" / path.name)
        assert isinstance(load(tmp_path / "a" / path.name), torch.nn.Module)
    assert record[tiny.DEPTH_WEIGHTS.name]["recipe"]["scenes"] == 2
