"""The tiny networks: shipped weights are the recorded ones and do their job; the script that trains them is right."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from lila_cues.networks import tiny
from lila_cues.networks.weights import file_sha256, load_strictly, read_tensors
from tests.lila_cues.demo.conftest import Clip

SCRIPT = Path(__file__).parents[3] / "docs" / "experiments" / "train_tiny.py"
SPEC = importlib.util.spec_from_file_location("train_tiny", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
train_tiny = sys.modules["train_tiny"] = importlib.util.module_from_spec(SPEC)  # dataclasses look their module up
SPEC.loader.exec_module(train_tiny)
SMALL = [f"--{name}=2" for name in ("scenes", "check-scenes", "encoder-steps", "depth-steps", "batch")]


def trained(network: torch.nn.Module, weights: Path) -> torch.nn.Module:
    """Load the weights of a file, all of them and no others."""
    load_strictly(network, read_tensors(weights, "--weights"), str(weights), "--weights")
    return network.eval()


def test_the_weights_are_the_recorded_ones_and_small() -> None:
    record = json.loads(tiny.RECORD.read_text())
    files = (tiny.ENCODER_WEIGHTS, tiny.DEPTH_WEIGHTS)
    assert set(record) == {path.name for path in files}
    for path in files:
        assert record[path.name]["sha256"] == file_sha256(path)
        assert record[path.name]["licence"] == "apache-2.0"
        assert "train_tiny" in str(record[path.name]["command"])
    assert sum(path.stat().st_size for path in tiny.RECORD.parent.iterdir()) < 3e6


@pytest.mark.parametrize(("height", "width"), [(112, 112), (272, 360), (56, 24)])
def test_the_encoder_takes_any_multiple_of_its_patch(height: int, width: int) -> None:
    network = trained(tiny.encoder(), tiny.ENCODER_WEIGHTS)
    with torch.inference_mode():
        features = network.forward_features(torch.rand(2, 3, height, width))
    assert features.shape == (2, height * width // tiny.PATCH_SIZE**2, tiny.WIDTH)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize(("height", "width"), [(240, 320), (224, 224), (97, 131), (33, 200)])
def test_the_depth_network_takes_any_size(height: int, width: int) -> None:
    network = trained(tiny.DepthCNN(), tiny.DEPTH_WEIGHTS)
    with torch.inference_mode():
        q = network(torch.rand(2, 3, height, width))
    assert q.shape == (2, height, width)
    assert ((q > 0) & (q < 2000)).all()


def test_depth_on_held_out_scenes_correlates_with_the_truth(clips: list[Clip]) -> None:
    network = trained(tiny.DepthCNN(), tiny.DEPTH_WEIGHTS)
    for clip in clips:
        with torch.inference_mode():
            q = network(torch.from_numpy(clip.rgb[3]).permute(2, 0, 1)[None].float() / 255)[0].numpy()
        assert spearmanr(q.ravel()[::5], clip.truth.depth(3).ravel()[::5]).statistic > 0.7


def _images(clips: list[Clip]) -> torch.Tensor:
    return torch.from_numpy(np.stack([clip.rgb[0] for clip in clips])).permute(0, 3, 1, 2).float() / 255


def _explained_pixels(network: torch.nn.Module, images: torch.Tensor) -> float:
    """R² of a linear map from features to patches' pixels at 4×4, on images that it was not fitted on."""
    with torch.inference_mode():
        features = train_tiny.tokens(network, images).double()
    small = torch.nn.functional.avg_pool2d(images - images.mean(dim=(2, 3), keepdim=True), tiny.PATCH_SIZE // 4)
    pixels = torch.nn.functional.unfold(small, 4, stride=4).mT.double()
    half = len(images) // 2
    (x, y), (x_new, y_new) = (
        (features[p].flatten(0, 1), pixels[p].flatten(0, 1)) for p in (slice(half), slice(half, None))
    )
    weights = torch.linalg.solve(x.T @ x / len(x) + 0.01 * torch.eye(x.shape[1]), x.T @ y / len(x))
    return float(1 - (x_new @ weights - y_new).square().mean() / y_new.square().mean())


def test_features_explain_more_of_a_patch_than_without_training(clips: list[Clip]) -> None:
    """On scenes that no training has seen, by a linear map that has not seen them either."""
    frames = torch.from_numpy(np.concatenate([clip.rgb[::3] for clip in clips])).permute(0, 3, 1, 2).float() / 255
    crops = train_tiny.draw_crops(np.random.default_rng(0), len(frames), 240, 320)
    views = crops.cut(frames, train_tiny.VIEW)[torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))]
    after = _explained_pixels(trained(tiny.encoder(), tiny.ENCODER_WEIGHTS), views)
    torch.manual_seed(0)
    before = _explained_pixels(tiny.encoder().eval(), views)
    assert after > 0.8
    assert 1 - after < 0.9 * (1 - before)


def test_crops_cut_what_they_say() -> None:
    """A crop of an image whose channels are its coordinates shows the coordinates of its points."""
    y, x = torch.meshgrid((torch.arange(240) + 0.5) / 120 - 1, (torch.arange(320) + 0.5) / 160 - 1, indexing="ij")
    ramp = torch.stack([x, y])[None].expand(6, -1, -1, -1)
    crops = train_tiny.draw_crops(np.random.default_rng(3), 6, 240, 320)
    assert ((crops.center.abs() + crops.half) <= 1 + 1e-6).all()
    points = crops.to_frame(train_tiny.view_grid(14).expand(6, -1, -1))
    shown = crops.cut(ramp, 14).flatten(2).transpose(1, 2)
    inside = points.abs().amax(dim=-1) < 0.99
    torch.testing.assert_close(shown[inside], points[inside], atol=1e-4, rtol=0)


def test_hidden_patches_are_the_mean_colour_and_the_others_untouched() -> None:
    images, hidden = torch.rand(2, 3, 16, 16), torch.tensor([[True, False, False, True], [False, True, False, False]])
    seen = train_tiny.hide(images, hidden)
    assert torch.equal(seen[0, :, :8, 8:], images[0, :, :8, 8:])
    torch.testing.assert_close(seen[0, :, :8, :8], images[0].mean(dim=(1, 2))[:, None, None].expand(3, 8, 8))
    torch.testing.assert_close(seen[1, :, 8:], images[1, :, 8:])


def test_the_share_of_hidden_patches() -> None:
    hidden = train_tiny.hidden_patches(np.random.default_rng(0), 200, 14)
    assert hidden.float().mean().item() == pytest.approx(train_tiny.HIDDEN, abs=0.01)


def test_the_target_of_a_patch_is_its_own_pixels() -> None:
    """The exact prediction of one patch removes its error from the loss: with weight 1 if hidden, less if visible."""
    images = torch.rand(1, 3, 16, 16)
    away = 2 * (images - images.mean(dim=(2, 3), keepdim=True))
    predicted = torch.zeros(1, 4, 192)
    predicted[0, 1] = away[0, :, :8, 8:].reshape(-1)
    error = away[0].unflatten(1, (2, 8)).unflatten(3, (2, 8)).abs().mean(dim=(0, 2, 4)).flatten()
    for hidden_one, weight in ((True, 1.0), (False, train_tiny.VISIBLE_WEIGHT)):
        hidden = torch.tensor([[True, hidden_one, False, True]])
        share = hidden.sum() if hidden_one else (~hidden).sum()
        gain = train_tiny.patch_loss(torch.zeros(1, 4, 192), images, hidden) - train_tiny.patch_loss(
            predicted, images, hidden
        )
        assert gain.item() == pytest.approx((weight * error[1] / share).item(), abs=1e-6)


def test_depth_loss_is_zero_at_the_truth_and_counts_ratios() -> None:
    truth = torch.rand(2, 8, 9) * 50 + 5
    assert train_tiny.depth_loss(truth, truth) == 0
    assert train_tiny.depth_loss(2 * truth, truth).item() == pytest.approx(np.log(2), abs=1e-5)


def test_the_training_script_writes_loadable_weights_and_their_record(tmp_path: Path) -> None:
    train_tiny.main(["--out", str(tmp_path / "a"), *SMALL])
    train_tiny.main(["--out", str(tmp_path / "b"), *SMALL])
    record = json.loads((tmp_path / "a" / tiny.RECORD.name).read_text())
    for path, network in ((tiny.ENCODER_WEIGHTS, tiny.encoder()), (tiny.DEPTH_WEIGHTS, tiny.DepthCNN())):
        assert record[path.name]["sha256"] == file_sha256(tmp_path / "a" / path.name)
        assert file_sha256(tmp_path / "a" / path.name) == file_sha256(tmp_path / "b" / path.name)
        trained(network, tmp_path / "a" / path.name)
    assert record[tiny.DEPTH_WEIGHTS.name]["recipe"]["scenes"] == 2
