"""Opening the store of a build, and sharing its tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

import stores
from lila_cues.config import BuildConfig
from lila_cues.pipeline import build
from stores.errors import LilaError
from tests.lila_cues import small_networks
from tests.lila_cues.pipeline.test_task import names
from tests.lila_cues.small_networks import CONFIG


def open_store(path: Path, root: Path, clips: list[str], config: BuildConfig = CONFIG) -> stores.CueStore:
    return build.open_store(path, config, small_networks.run_options(root), small_networks.facts(config), clips)


def test_two_builders_of_one_store_and_a_changed_config(videos: Path, tmp_path: Path) -> None:
    first = open_store(tmp_path / "s.zarr", videos, names())
    assert open_store(tmp_path / "s.zarr", videos, names()).n_clips == first.n_clips
    assert BuildConfig.from_dict(first.provenance["settings"], first.path) == CONFIG
    assert first.provenance["root"] == str(videos)
    with pytest.raises(LilaError, match=r"settings\.seed: 0, not 9"):
        open_store(tmp_path / "s.zarr", videos, names(), CONFIG.replace(seed=9))


def test_shares_are_disjoint_and_complete() -> None:
    shares = [list(build.tasks_of_shard(range(50), (index, 7))) for index in range(7)]
    assert sorted(task for share in shares for task in share) == list(range(50))
