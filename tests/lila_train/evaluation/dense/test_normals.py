"""Surface normals: from the depth of a plane, mirrored, read from every layout, and end to end on real frames."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from lila_train.evaluation import harness
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense import normals
from lila_train.evaluation.dense.metrics import angle_errors
from lila_train.evaluation.dense.normals import NYU_CAMERA, NYU_LILA, Intrinsics
from lila_train.evaluation.dense.task import dense_task
from lila_train.evaluation.model_spec import ModelSpec
from stores.errors import LilaError
from tests.lila_train.evaluation.small_models import write_checkpoint

SMALL = Intrinsics(60.0, 55.0, 31.5, 23.5)


def plane(normal: np.ndarray, distance: float, camera: Intrinsics, size: tuple[int, int]) -> np.ndarray:
    """Depth of the points with normal·X = −distance, along each pixel's ray."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(size)], axis=-1)
    return -distance / (rays @ normal)


@pytest.mark.parametrize("direction", [(0, 0, -1), (0, -1, -1), (0.4, -0.2, -1), (-0.5, 0.3, -1)])
def test_the_normal_of_a_plane_is_found_and_faces_the_camera(direction):
    normal = np.array(direction) / np.linalg.norm(direction)
    found = normals.normals_of_depth(plane(normal, 2.0, SMALL, (48, 64)), SMALL)
    inner = found[1:-1, 1:-1]
    np.testing.assert_allclose(inner, np.broadcast_to(normal, inner.shape), atol=1e-6)
    assert np.isnan(found[0]).all()


def test_a_hole_in_the_depth_leaves_its_neighbors_unknown():
    depth = plane(np.array([0, 0, -1.0]), 2.0, SMALL, (12, 12))
    depth[5, 6] = 0
    unknown = np.isnan(normals.normals_of_depth(depth, SMALL)).any(axis=-1)
    assert {tuple(place) for place in np.argwhere(unknown[1:-1, 1:-1]) + 1} == {(4, 6), (6, 6), (5, 5), (5, 7)}


def test_mirrored_normals_change_the_sign_of_x():
    target = torch.zeros(4, 1, 3)
    target[:, 0, 0] = torch.tensor([0.6, 0.0, -0.8, 1.0])
    turned = normals.flip_normals(target)
    assert turned[:, 0, 2].tolist() == pytest.approx([-0.6, 0, -0.8, 1])
    assert torch.equal(normals.flip_normals(turned), target)


def test_the_loss_is_the_mean_angle_where_the_normal_is_known():
    target = torch.zeros(1, 4, 1, 3)
    target[0, 2], target[0, 3, 0] = 1, torch.tensor([1.0, 1.0, 0.0])
    outputs = torch.tensor([[0.0, 3.0, 1.0], [0.0, 0.0, 0.0], [5.0, 3.0, 0.0]]).view(1, 3, 1, 3)
    clamped = np.arccos(1 - 1e-4)
    assert normals.angular_loss(outputs, target).item() == pytest.approx((np.pi / 4 + clamped) / 2, abs=1e-5)
    aligned = torch.zeros(1, 3, 1, 3, requires_grad=True)
    (aligned + target[:, :3]).retain_grad()
    normals.angular_loss(aligned + target[:, :3], target).backward()
    assert torch.isfinite(aligned.grad).all()


def write_pictures(root: Path, depth_mm: np.ndarray, with_normals: bool = False) -> Path:
    for split in ("train", "test"):
        for kind in ("rgb", "depth", *(["normals"] if with_normals else [])):
            (root / split / kind).mkdir(parents=True)
        for name in ("a", "b"):
            image = np.full((*depth_mm.shape, 3), 90, np.uint8)
            cv2.imwrite(str(root / split / f"rgb/{name}.png"), image)
            cv2.imwrite(str(root / split / f"depth/{name}.png"), depth_mm)
            if with_normals:
                cv2.imwrite(str(root / split / f"normals/{name}.png"), image * 0 + np.array([0, 128, 128], np.uint8))
    return root


def test_png_folders_with_and_without_normals(tmp_path: Path):
    depth = np.full((20, 24), 2000, np.uint16)
    depth[0], depth[1] = 0, 11_000
    computed = normals.open_nyu(write_pictures(tmp_path / "computed", depth), None)
    assert computed.about["normals"] == "from depth"
    target = computed.read(computed.val[0]).target
    assert target[:3, 10, 10].tolist() == pytest.approx([0, 0, -1], abs=1e-6)
    assert target[3, 0].max() == target[3, 1].max() == 0
    stored = normals.open_nyu(write_pictures(tmp_path / "stored", depth, with_normals=True), limit=1)
    assert (len(stored.val), stored.about["normals"]) == (1, "from files")
    target = stored.read(stored.val[0]).target
    assert target[:3, 10, 10].tolist() == pytest.approx([0, 0, -1], abs=0.01)
    assert target[3].sum() == 18 * 24


def test_geonet_s_files_are_read_and_its_broken_ones_left_out(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(normals, "BROKEN", (1,))
    up = np.zeros((482, 642, 3))
    up[..., 1] = -1
    image = np.zeros((482, 642, 3)) + 100 - 2 * np.array(normals.GEONET_MEAN)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for n in range(3):
            content = {"img": image, "depth": np.full((482, 642), 3.0), "norm": up}
            scipy.io.savemat(tmp_path / split / f"{n}.mat", content)
    data = normals.open_nyu(tmp_path, None)
    assert [files[0].name for files in data.train] == ["0.mat", "2.mat"]
    assert len(data.val) == 3
    example = data.read(data.train[0])
    assert example.image.shape == (3, 480, 640)
    assert example.image.unique().tolist() in ([99], [100], [99, 100])
    assert example.target[:, 5, 5].tolist() == [0, -1, 0, 1]


def test_bad_folders_and_files_are_named(tmp_path: Path):
    with pytest.raises(LilaError, match=r"GeoNet's \.mat files, or rgb and depth, in .*train, found neither"):
        normals.open_nyu(tmp_path, None)
    root = write_pictures(tmp_path / "nyu", np.full((20, 24), 2000, np.uint16))
    (root / "test/depth/b.png").unlink()
    with pytest.raises(LilaError, match=r"every listed image and its targets, found no .*test/depth/b\.png"):
        normals.open_nyu(root, None)
    cv2.imwrite(str(root / "test/depth/b.png"), np.full((20, 24), 20, np.uint8))
    data = normals.open_nyu(root, None)
    with pytest.raises(LilaError, match=r"depth/b\.png: expected a 16-bit gray PNG in millimeters, found mode L"):
        data.read(data.val[1])
    cv2.imwrite(str(root / "test/depth/b.png"), np.full((20, 20), 2000, np.uint16))
    with pytest.raises(LilaError, match=r"image's size 24×20 .*found 20×20 in .*depth/b\.png"):
        data.read(data.val[1])
    (root / "test/bad.mat").write_bytes(b"no matlab")
    with pytest.raises(LilaError, match=r"img, depth and norm in .*bad\.mat, but it cannot be read"):
        data.read((root / "test/bad.mat",))


def write_real_frames(shared: Path, root: Path) -> Path:
    """One frame to train on, one to measure, normals to be computed from depth."""
    for split, number in (("train", "00000"), ("test", "00050")):
        for kind, name in (("rgb", f"rgb_{number}.jpg"), ("depth", f"sync_depth_{number}.png")):
            (root / split / kind).mkdir(parents=True)
            shutil.copy(shared / "data/nyu" / name, root / split / kind / f"{number}{Path(name).suffix}")
    return root


def test_real_frames_end_to_end(shared: Path, tmp_path: Path):
    root = write_real_frames(shared, tmp_path / "nyu")
    recipe = replace(NYU_LILA.recipe, epochs=2, repeats=2, batch=2)
    train_view = replace(NYU_LILA.train_view, side=64)
    val_view = replace(NYU_LILA.val_view, short_side=80, side=72)
    small = replace(NYU_LILA, recipe=recipe, train_view=train_view, val_view=val_view)
    task = dense_task(small, normals.open_nyu, root, EvalConfig())
    spec = ModelSpec(weights=write_checkpoint(tmp_path / "weights.safetensors"))
    result = harness.evaluate(task, spec, tmp_path / "out", torch.device("cpu"))
    assert result["data"]["normals"] == "from depth"
    for metrics in result["scores"].values():
        assert 0 < metrics["rmse_deg"] < 180
        assert metrics["under_11.25"] <= metrics["under_22.5"] <= metrics["under_30"]


def test_every_normal_of_a_real_frame_faces_the_camera(shared: Path):
    depth = cv2.imread(str(shared / "data/nyu/sync_depth_00000.png"), cv2.IMREAD_UNCHANGED) / 1000.0
    found = normals.normals_of_depth(depth, NYU_CAMERA)
    known = np.isfinite(found).all(axis=-1)
    rows, columns = np.mgrid[:480, :640]
    across, down = (columns - NYU_CAMERA.cx) / NYU_CAMERA.fx, (rows - NYU_CAMERA.cy) / NYU_CAMERA.fy
    towards = (found * np.stack([across, down, np.ones_like(across)], axis=-1)).sum(axis=-1)
    assert known.mean() > 0.5
    assert (towards[known] < 0).all()
    np.testing.assert_allclose(np.linalg.norm(found[known], axis=-1), 1, atol=1e-6)


def test_published_settings():
    recipe = NYU_LILA.recipe
    assert (recipe.epochs, recipe.repeats, recipe.batch, recipe.lr, recipe.weight_decay) == (30, 10, 16, 3e-4, 0.01)
    assert (NYU_LILA.train_view.side, NYU_LILA.train_view.jitter) == (448, (0.3, 0.3, 0.2))
    assert (NYU_LILA.val_view.short_side, NYU_LILA.val_view.side) == (554, 504)
    assert NYU_LILA.measure is angle_errors
