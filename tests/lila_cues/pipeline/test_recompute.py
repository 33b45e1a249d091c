"""Clips recomputed by the recipe in their store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import stores
from lila_cues.pipeline import build
from lila_cues.pipeline.recompute import load_recompute
from lila_cues.pipeline.task import Worker
from stores.errors import LilaError
from tests.lila_cues import small_networks
from tests.lila_cues.pipeline.test_build import open_store
from tests.lila_cues.pipeline.test_task import names
from tests.lila_cues.small_networks import CONFIG


def test_a_store_without_its_recipe_cannot_be_recomputed(tmp_path: Path) -> None:
    bare = stores.create(tmp_path / "s.zarr", stores.StoreSpec(small_networks.GEOMETRY), ["a"], {}, {})
    with pytest.raises(LilaError, match=r"expected the recipe of its build in .*, found none that can be read"):
        load_recompute(bare)


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
