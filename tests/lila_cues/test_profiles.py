"""A build's config: through JSON, as a fingerprint, in a store, and read back to recompute a clip."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stores
from lila_cues.config import BuildConfig
from lila_cues.pipeline import build
from lila_cues.pipeline.recompute import load_recompute, recorded_config
from lila_cues.pipeline.task import Worker
from stores.errors import LilaError
from tests.lila_cues import small_networks
from tests.lila_cues.pipeline.test_pipeline import names
from tests.lila_cues.small_networks import CONFIG


def open_store(path: Path, root: Path, clips: list[str], config: BuildConfig = CONFIG) -> stores.CueStore:
    return build.open_store(path, config, small_networks.run_options(root), small_networks.networks(), clips, {})


def test_a_recipe_survives_json(videos: Path) -> None:
    config, options = replace(CONFIG, extra_cues=("normals",)), small_networks.run_options(videos)
    recipe = config.recipe(options, patch_size=8, width=24)
    assert recipe["geometry"] == asdict(small_networks.GEOMETRY)
    assert BuildConfig.from_recipe(json.loads(json.dumps(recipe))) == (config, options)


def test_the_fingerprint_is_of_what_shapes_the_data_and_not_of_places() -> None:
    weights = small_networks.networks().records()
    same = CONFIG.fingerprint(weights, 8)
    for change in ({"seed": 1}, {"max_gap": 1}, {"decoder": "pyav"}, {"dataset": "frames"}, {"pamr_sigma": 0.1}):
        assert replace(CONFIG, **change).fingerprint(weights, 8) != same
    assert CONFIG.fingerprint(weights, 16)["encoder_input"] == [32, 32] == same["encoder_input"]
    assert CONFIG.fingerprint(weights, 14)["encoder_input"] == [28, 28]
    moved = {kind: {**record, "location": "other"} for kind, record in weights.items()}
    assert CONFIG.fingerprint(moved, 8) == same
    assert CONFIG.fingerprint({**weights, "flow": {**weights["flow"], "sha256": "other"}}, 8) != same


def test_a_store_that_another_builder_has_just_made_is_taken(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = stores.open_or_create, list[Path]()

    def late(path: Path, *arguments: Any) -> stores.CueStore:
        calls.append(path)
        made = real(path, *arguments)
        if len(calls) == 1:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        return made

    monkeypatch.setattr(stores, "open_or_create", late)
    assert open_store(tmp_path / "s.zarr", videos, names()).n_clips == 7
    assert len(calls) == 2
    monkeypatch.setattr(stores, "open_or_create", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        open_store(tmp_path / "s.zarr", videos, names())


def refuse(*arguments: object) -> stores.CueStore:
    raise OSError(errno.EIO, "Input/output error")


def test_two_builders_of_one_store_and_a_changed_config(videos: Path, tmp_path: Path) -> None:
    first = open_store(tmp_path / "s.zarr", videos, names())
    assert open_store(tmp_path / "s.zarr", videos, names()).n_clips == first.n_clips
    assert BuildConfig.from_recipe(first.provenance["recipe"]) == (CONFIG, small_networks.run_options(videos))
    with pytest.raises(LilaError, match=r"settings\.seed: 0 in the store, 9 requested"):
        open_store(tmp_path / "s.zarr", videos, names(), replace(CONFIG, seed=9))


def test_a_store_without_its_recipe_cannot_be_recomputed(tmp_path: Path) -> None:
    bare = stores.create(tmp_path / "s.zarr", stores.StoreSpec(small_networks.GEOMETRY), ["a"], {}, {})
    with pytest.raises(LilaError, match=r"expected the recipe of its build in .*, found none that can be read"):
        recorded_config(bare)


def test_clips_can_be_recomputed_from_moved_videos(videos: Path, tmp_path: Path) -> None:
    original, moved, networks = tmp_path / "original", tmp_path / "moved", small_networks.networks()
    shutil.copytree(videos, original)
    store = open_store(tmp_path / "s.zarr", original, names(1))
    with Worker(CONFIG, small_networks.run_options(original), networks, 2) as worker:
        list(build.build_local(store, worker, [0]))
    original.rename(moved)
    with pytest.raises(LilaError, match="found no folder at"):
        load_recompute(store, networks=networks)
    recompute = load_recompute(store, root=moved, networks=networks)
    np.testing.assert_allclose(recompute(store, 0).depth, store.read("depth", 0), atol=0.01)
