"""Clips recomputed by the recipe in their store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import stores
from lila_cues.pipeline import build
from lila_cues.pipeline.task import Worker, load_recompute
from stores.errors import LilaError
from tests.lila_cues import barcodes, small_networks
from tests.lila_cues.barcodes import Clip
from tests.lila_cues.pipeline.test_build import open_store
from tests.lila_cues.pipeline.test_task import names
from tests.lila_cues.small_networks import CONFIG


def test_a_store_without_its_recipe_cannot_be_recomputed(tmp_path: Path) -> None:
    bare = stores.create(tmp_path / "s.zarr", stores.StoreSpec(small_networks.GEOMETRY), ["a"], {}, {})
    with pytest.raises(LilaError, match=r"expected the settings of its build in .*, found none"):
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
    np.testing.assert_allclose(recompute(0).depth, store.read("depth", 0), atol=0.01)


def test_a_clip_that_decord_could_not_read_is_recomputed(tmp_path: Path) -> None:
    """A store of version 0.1 names decord for all clips, also for those that PyAV read in its place."""
    networks, options = small_networks.networks(), small_networks.run_options(tmp_path)
    barcodes.write(tmp_path / "a.mp4", Clip(codec="libx265", size=(72, 96)))
    store = open_store(tmp_path / "s.zarr", tmp_path, ["a.mp4"], CONFIG.replace(decoder="decord"))
    with Worker(CONFIG, options, networks, 2) as worker:
        list(build.build_local(store, worker, [0]))
    recompute = load_recompute(store, networks=networks)
    np.testing.assert_allclose(recompute(0).depth, store.read("depth", 0), atol=0.01)
