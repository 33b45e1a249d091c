"""Cues computed in the step are those that stage one stores for the same pair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import stores
from lila_cues.networks import FrozenEncoder, load_encoder
from lila_cues.pamr import Affinity
from lila_train.training.config import ObjectiveConfig, TrainConfig
from lila_train.training.data import PairBatch, PairSettings, load_pairs
from lila_train.training.distributed import Rank
from lila_train.training.online import OnlineCues, Refinement, Teachers
from lila_train.training.run_dir import RunDir
from lila_train.training.step import Hardware
from lila_train.training.trainer import LoopOptions, Trainer, encoder_of_store
from stores.errors import LilaError
from tests.lila_cues import barcodes, small_networks
from tests.lila_cues.barcodes import Clip
from tests.lila_cues.pipeline.test_pipeline import build_all
from tests.lila_train.training import world

METHOD = ObjectiveConfig(view_size=32, channels=3, cells=8, max_gap=3)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for index in range(2):
        barcodes.write(folder / f"{index}.mp4", Clip(frames=20, size=(72, 96)))
    return folder


@pytest.fixture(scope="module")
def store(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return build_all(tmp_path_factory.mktemp("store") / "s.zarr", videos, ["0.mp4", "1.mp4"])


def batch_of(store: stores.CueStore, method: ObjectiveConfig, computed: frozenset[str] = frozenset()) -> PairBatch:
    pairs = PairSettings(0, 4, method, small_networks.networks().encoder.width, computed)
    path = str(store.path)
    return next(iter(load_pairs(path, pairs, first_step=0, last_step=1, processes=0, rank=Rank(), pin=False)))


def online_cues(method: ObjectiveConfig, depth: bool = True) -> OnlineCues:
    networks, config, sizes = small_networks.networks(), small_networks.CONFIG, small_networks.GEOMETRY
    affinity = Affinity(config.pamr_dilations, config.pamr_sigma)
    how = Refinement(sizes.cue, sizes.features, config.encoder_input(8), config.pamr_iterations, affinity)
    teachers = Teachers(networks.encoder.grid, networks.flow.between, networks.depth if depth else None)
    return OnlineCues(teachers, how, method)


@pytest.mark.parametrize("distilled", ["refined", "raw"])
def test_online_cues_are_the_stored_ones(store: stores.CueStore, distilled: str) -> None:
    method = replace(METHOD, distilled=distilled)  # type: ignore[arg-type]
    online = online_cues(method)
    assert online.computed == {"flow", "depth", "features"}
    expected, bare = batch_of(store, method), batch_of(store, method, online.computed)
    assert dict(bare.cues) == {}
    found = online(bare)
    assert torch.equal(found.channels, expected.channels)
    assert found.cues.keys() == expected.cues.keys()
    for name, stored in expected.cues.items():
        ours = found.cues[name]
        assert ours.shape == stored.shape
        scale = stored.abs().max()
        assert (ours - stored).abs().median() < 0.02 * scale + 1 / 64, name


def test_depth_from_files_and_cues_not_told_are_not_computed() -> None:
    assert online_cues(METHOD, depth=False).computed == {"flow", "features"}
    method = replace(METHOD, distilled="online", cues=("flow", "features"))
    assert online_cues(method).computed == {"flow"}


def test_the_networks_of_a_build_are_loaded_again(store: stores.CueStore, tmp_path: Path) -> None:
    encoder = load_encoder("tiny")
    dis = {"network": "dis", "origin": "code", "location": "opencv", "sha256": None, "settings": {}}
    provenance = {
        "recipe": small_networks.CONFIG.recipe(small_networks.run_options(tmp_path), 8, 24),
        "networks": {"flow": dis, "depth": {"network": "tiny", "origin": "package", "location": "x", "sha256": None}},
    }
    built = stores.create(tmp_path / "s.zarr", store.spec, ["x"], {}, provenance)
    online = OnlineCues.of_store(built, encoder, METHOD)
    assert online.computed == {"flow", "depth", "features"}
    full = online(batch_of(store, METHOD, online.computed))
    assert full.whole().all()
    assert full.cues["features"].shape == (4, 2, 3, 16, 16)


def test_a_store_without_its_recipe_cannot_be_trained_on_online(tmp_path: Path) -> None:
    built = world.build(tmp_path / "cues.zarr", clips=1)
    cpu = torch.device("cpu")
    encoder: FrozenEncoder = encoder_of_store(built, None, cpu)
    settings = TrainConfig(steps=1, batch_size=1, decoder_width=16, online=True, method=METHOD)
    with pytest.raises(LilaError, match="expected the networks and the recipe of its build"):
        Trainer(built, encoder, settings, RunDir(tmp_path / "run"), Hardware(cpu), LoopOptions())
