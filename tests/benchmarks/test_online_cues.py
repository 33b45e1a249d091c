"""Cues computed online equal those that stage one stores for the same pair."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import stores
from lila_cues.networks import load_encoder
from lila_cues.pamr import Affinity
from lila_train.training.config import TrainConfig
from lila_train.training.data import PairBatch, PairDataset, load_pairs
from lila_train.training.targets import stored_arrays
from tests.benchmarks.online_cues import OnlineCues, Refinement, Teachers, online_dataset
from tests.lila_cues import barcodes, small_networks
from tests.lila_cues.barcodes import Clip
from tests.lila_cues.pipeline.test_task import build_all

CONFIG = TrainConfig(steps=1, batch_size=4, crop_size=32, channels=3, cells=8, max_gap=3)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for index in range(2):
        barcodes.write(folder / f"{index}.mp4", Clip(frames=20, size=(72, 96)))
    return folder


@pytest.fixture(scope="module")
def store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return build_all(tmp_path_factory.mktemp("store") / "s.zarr", videos, ["0.mp4", "1.mp4"])


def batch_of(store: stores.CueStore, config: TrainConfig, computed: frozenset[str] = frozenset()) -> PairBatch:
    width = small_networks.networks().encoder.width
    dataset = PairDataset(str(store.path), config, stored_arrays(config), width, store.complete_clips())
    return next(load_pairs(online_dataset(dataset, computed), range(1)))


def online_cues(config: TrainConfig, depth: bool = True) -> OnlineCues:
    networks, build, sizes = small_networks.networks(), small_networks.CONFIG, small_networks.GEOMETRY
    affinity = Affinity(build.pamr_dilations, build.pamr_sigma)
    how = Refinement(sizes.cue, sizes.features, build.encoder_input(8), build.pamr_iterations, affinity)
    teachers = Teachers(networks.encoder.grid, networks.flow.between, networks.depth if depth else None)
    return OnlineCues(teachers, how, config)


@pytest.mark.parametrize("distilled", ["refined", "raw"])
def test_online_cues_are_the_stored_ones(store: stores.CueStore, distilled: str) -> None:
    config = CONFIG.replace(distilled=distilled)  # type: ignore[arg-type]
    online = online_cues(config)
    assert online.computed == {"flow", "depth", "features"}
    expected, bare = batch_of(store, config), batch_of(store, config, online.computed)
    assert dict(bare.cues) == {}
    found = online(bare)
    assert torch.equal(found.channels, expected.channels)
    assert found.cues.keys() == expected.cues.keys()
    for name, stored in expected.cues.items():
        ours = found.cues[name]
        assert ours.shape == stored.shape
        scale = stored.abs().max()
        assert (ours - stored).abs().median() < 0.02 * scale + 1 / 64, name


def test_depth_from_files_and_inactive_cues_are_not_computed() -> None:
    assert online_cues(CONFIG, depth=False).computed == {"flow", "features"}
    config = CONFIG.replace(distilled="online", cues=("flow", "features"))
    assert online_cues(config).computed == {"flow"}


def test_the_networks_of_a_build_are_loaded_again(store: stores.CueStore, tmp_path: Path) -> None:
    encoder = load_encoder("tiny")
    dis = {"network": "dis", "origin": "code", "location": "opencv", "sha256": None, "settings": {}}
    provenance = {
        "settings": small_networks.CONFIG.to_dict(),
        "networks": {"flow": dis, "depth": {"network": "tiny", "origin": "package", "location": "x", "sha256": None}},
    }
    built = stores.create(tmp_path / "s.zarr", store.spec, ["x"], {}, provenance)
    online = OnlineCues.of_store(built, encoder, CONFIG)
    assert online.computed == {"flow", "depth", "features"}
    full = online(batch_of(store, CONFIG, online.computed))
    assert full.finite().all()
    assert full.cues["features"].shape == (4, 2, 3, 16, 16)
