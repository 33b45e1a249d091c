"""A store from real frames with real networks: what is in it lies where the annotated object is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import stores
from lila_cues.config import BuildConfig, RunOptions
from lila_cues.datasets import open_dataset
from lila_cues.pipeline import build
from lila_cues.pipeline.frames import base_box, crop
from lila_cues.pipeline.setup import load_networks
from lila_cues.pipeline.task import Worker, load_recompute
from stores.errors import LilaError

SIDE, BASE, FRAMES = 160, (320, 320), 4
CLIPS = 3


def davis_config(data: Path) -> BuildConfig:
    return BuildConfig(
        dataset="davis",
        encoder="vit_tiny_patch16_224",
        depth=f"files:{data}/davis/Depth/480p",
        flow="raft_small",
        encoder_weights=str(data / "weights" / "vit_tiny_patch16_224.pth"),
        flow_weights=str(data / "weights" / "raft_small.pth"),
        base_size=BASE[0],
        cue_size=SIDE,
        feature_size=80,
        channels=16,
        frames=FRAMES,
        pairs=3,
    )


@pytest.fixture(scope="module")
def davis(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    """RAFT small, ViT-Ti, and depth from files."""
    config, options = davis_config(shared / "data"), RunOptions(shared / "data" / "davis", device="cpu")
    clips = open_dataset("davis", shared / "data" / "davis").clips()[:CLIPS]
    path = tmp_path_factory.mktemp("davis") / "s.zarr"
    with Worker(config, options, threads=2) as worker:
        store = build.open_store(path, config, options, worker.extractor.networks.facts(config, "cpu"), clips)
        (report,) = build.build_local(store, worker, store.pending_tasks())
    assert report.failed == {}
    return store


def mask(shared: Path, store: stores.CueStore, clip: int, frame: int) -> np.ndarray:
    """The annotated object on the cue grid: share of each cell."""
    index = int(store.read("frame_index", clip)[frame])
    path = shared / "data" / "davis" / "Annotations" / "480p" / store.clip_id(clip) / f"{index:05d}.png"
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return crop((image > 0).astype(np.float32), base_box(image.shape[:2], BASE), (SIDE, SIDE))


def boundary(objects: np.ndarray, reach: int = 2) -> np.ndarray:
    """Cells within `reach` of the object's edge."""
    inside = (objects > 0.5).astype(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(inside, disk) != cv2.erode(inside, disk)


def edges(maps: np.ndarray) -> np.ndarray:
    """Length of the gradient, over all channels, of maps c y x."""
    rows, columns = np.gradient(maps, axis=(1, 2))
    return np.sqrt((rows**2 + columns**2).sum(0))


def contrast(strength: np.ndarray, band: np.ndarray) -> float:
    """Mean strength in the band over that outside it."""
    return float(strength[band].mean() / strength[~band].mean())


def test_flow_edges_lie_on_the_boundary_of_the_moving_object(shared: Path, davis: stores.CueStore) -> None:
    """A wrong crop, frame, direction or axis order would put them elsewhere: a mirrored mask is the control."""
    right, mirrored = [], []
    for clip in davis.complete_clips().tolist():
        for pair, (frame, _) in enumerate(davis.read("pair_frames", clip)):
            band = boundary(mask(shared, davis, clip, frame))
            if not 0.01 < band.mean() < 0.4:
                continue
            strength = edges(davis.read("flow_forward", clip, pair))
            right.append(contrast(strength, band))
            mirrored.append(contrast(strength, band[:, ::-1]))
    assert len(right) >= 6
    print(f"flow edges at the boundary: {np.mean(right):.2f} times those elsewhere, mirrored {np.mean(mirrored):.2f}")
    assert np.mean(right) > 3
    assert np.mean(right) > 2 * np.mean(mirrored)


def test_forward_and_backward_flow_undo_each_other(davis: stores.CueStore) -> None:
    errors = []
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    for clip in davis.complete_clips().tolist():
        for forward, backward in zip(davis.read("flow_forward", clip), davis.read("flow_backward", clip), strict=True):
            back = [
                cv2.remap(channel, columns + forward[0], rows + forward[1], cv2.INTER_LINEAR, borderMode=1)
                for channel in backward
            ]
            errors.append(np.median(np.hypot(*(forward + np.stack(back)))))
    print(f"median distance after a round trip: {np.median(errors):.2f} px")
    assert np.median(errors) < 0.5


def test_refined_features_follow_the_object_more_closely_than_raw_ones(shared: Path, davis: stores.CueStore) -> None:
    gains = []
    for clip in davis.complete_clips().tolist():
        raw, refined = davis.read("features_raw", clip), davis.read("features", clip)
        for frame in range(FRAMES):
            band = boundary(mask(shared, davis, clip, frame))
            large = np.stack([cv2.resize(channel, (SIDE, SIDE)) for channel in raw[frame]])
            fine = np.stack([cv2.resize(channel, (SIDE, SIDE)) for channel in refined[frame]])
            gains.append(contrast(edges(fine), band) / contrast(edges(large), band))
    print(f"feature edges at the boundary: {np.mean(gains):.2f} times as marked after refinement")
    assert np.mean(gains) > 1.2


def test_depth_is_that_of_the_files(shared: Path, davis: stores.CueStore) -> None:
    depth = davis.read("depth", 0)
    index = davis.read("frame_index", 0)
    for q, position in zip(depth, index, strict=True):
        path = shared / "data" / "davis" / "Depth" / "480p" / davis.clip_id(0) / f"{position:05d}.png"
        millimetres = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert millimetres is not None
        middle = millimetres[:, 14:50].astype(float)  # 480 of 854 columns of a map of 64
        assert abs(np.median(100 / q) - np.median(middle) / 1000) < 0.1 * np.median(middle) / 1000


def test_a_clip_computed_again_is_the_same(davis: stores.CueStore) -> None:
    again = load_recompute(davis)(1)
    for name in ("flow_forward", "depth", "features"):
        stored = davis.read(name, 1)
        assert np.abs(getattr(again, name) - stored).max() <= max(1 / 128, np.abs(stored).max() / 100)


def test_other_weights_are_noticed_before_anything_is_computed_again(shared: Path, davis: stores.CueStore) -> None:
    changed = load_networks(davis_config(shared / "data"), "cpu")
    changed = replace(changed, flow=type("Other", (), {"source": changed.encoder.source, "settings": {}})())
    with pytest.raises(LilaError, match=r"expected the networks that .*, found others \(flow differ\)"):
        load_recompute(davis, networks=changed)
