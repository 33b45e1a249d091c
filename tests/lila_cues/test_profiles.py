"""A build as a value: through JSON, as a fingerprint, in a store, and read back to compute a clip again."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stores
from lila_cues.config import BuildRecipe
from lila_cues.pipeline import build
from lila_cues.pipeline.recompute import Recomputer, recorded_recipe
from lila_cues.pipeline.task import Worker
from stores.errors import LilaError
from tests.lila_cues import small_networks
from tests.lila_cues.pipeline.test_pipeline import names


def test_a_recipe_survives_json(videos: Path) -> None:
    recipe = small_networks.recipe(videos)
    assert BuildRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_fingerprint_holds_what_shapes_the_data_and_not_where_it_lies(videos: Path) -> None:
    recipe = small_networks.recipe(videos)
    weights = small_networks.networks().records()
    same = recipe.fingerprint(weights)
    assert same == replace(recipe, device="cuda", source=replace(recipe.source, root="/elsewhere")).fingerprint(weights)
    for change in ({"seed": 1}, {"max_gap": 1}, {"source": replace(recipe.source, decoder="pyav")}):
        assert replace(recipe, **change).fingerprint(weights) != same
    moved = {kind: {**record, "location": "other"} for kind, record in weights.items()}
    assert recipe.fingerprint(moved) == same
    assert recipe.fingerprint({**weights, "flow": {**weights["flow"], "sha256": "other"}}) != same


def test_a_store_that_another_builder_has_just_made_is_taken(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, weights = small_networks.recipe(videos), small_networks.networks().records()
    real, calls = stores.open_or_create, []

    def late(path: Path, *arguments: Any) -> stores.CueStore:
        calls.append(path)
        made = real(path, *arguments)
        if len(calls) == 1:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        return made

    monkeypatch.setattr(stores, "open_or_create", late)
    assert build.open_store(tmp_path / "s.zarr", recipe, names(), weights, {}).n_clips == 7
    assert len(calls) == 2
    monkeypatch.setattr(stores, "open_or_create", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        build.open_store(tmp_path / "s.zarr", recipe, names(), weights, {})


def refuse(*arguments: object) -> stores.CueStore:
    raise OSError(errno.EIO, "Input/output error")


def test_two_builders_of_one_store_and_a_changed_recipe(videos: Path, tmp_path: Path) -> None:
    recipe, weights = small_networks.recipe(videos), small_networks.networks().records()
    first = build.open_store(tmp_path / "s.zarr", recipe, names(), weights, {})
    assert build.open_store(tmp_path / "s.zarr", recipe, names(), weights, {}).n_clips == first.n_clips
    assert BuildRecipe.from_dict(first.provenance["recipe"]) == recipe
    with pytest.raises(LilaError, match=r"settings\.seed: 0 in the store, 9 requested"):
        build.open_store(tmp_path / "s.zarr", replace(recipe, seed=9), names(), weights, {})


def test_a_store_without_its_recipe_cannot_be_computed_again(tmp_path: Path) -> None:
    bare = stores.create(tmp_path / "s.zarr", stores.StoreSpec(small_networks.GEOMETRY), ["a"], {}, {})
    with pytest.raises(LilaError, match=r"expected the recipe of its build in .*, found none that can be read"):
        recorded_recipe(bare)


def test_clips_can_be_computed_again_where_they_lie_now(videos: Path, tmp_path: Path) -> None:
    moved, networks = tmp_path / "moved", small_networks.networks()
    shutil.copytree(videos, moved)
    recipe = small_networks.recipe(videos)
    store = build.open_store(tmp_path / "s.zarr", recipe, names(1), networks.records(), {})
    with Worker(recipe, networks, 2) as worker:
        list(build.build_local(store, worker, [0]))
    again = Recomputer(store, root=moved, networks=networks)
    assert again.recipe.source.root == str(moved)
    np.testing.assert_allclose(again(store, 0).depth, store.read("depth", 0), atol=0.01)
