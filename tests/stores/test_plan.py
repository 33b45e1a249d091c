"""A plan agrees with the store that is then built; a plan that does not fit is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from stores import StoreError
from stores.plan import plan, readable, require_room
from tests.benchmarks import store_scenes
from tests.stores import worlds


def test_counts_equal_those_of_the_store(tmp_path: Path) -> None:
    wanted = plan(worlds.SPEC, 11)
    store = worlds.create(tmp_path / "cues.zarr", 11)
    worlds.fill(store)
    files = sum(path.is_file() for path in Path(store.path).rglob("*"))
    assert (wanted.tasks, wanted.frames, wanted.pairs) == (store.n_tasks, 44, 33)
    assert wanted.files == files


def test_bytes_are_close_to_those_of_the_store(tmp_path: Path) -> None:
    geometry = store_scenes.DEFAULT
    store = worlds.create(tmp_path / "cues.zarr", 1, worlds.StoreSpec(geometry))
    with store.lock_task(0) as writer:
        assert writer is not None
        worlds.add(store, writer, 0, store_scenes.clip(0))
    found = {name: (Path(store.path) / array.shard_key(0)).stat().st_size for name, array in store.arrays.items()}
    wanted = plan(store.spec, 1)
    for name in ("rgb", "depth", "flow_forward", "features"):
        assert wanted.array_bytes[name] == pytest.approx(found[name], rel=0.35)
    assert sum(found.values()) < wanted.largest_bytes * 1.01
    assert wanted.total_bytes == pytest.approx(sum(found.values()), rel=0.25)


def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = plan(worlds.SPEC, 1000)
    room = SimpleNamespace(free=wanted.total_bytes // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: room)
    with pytest.raises(StoreError, match=r"needs about .* more, and .* has .* free; take fewer clips"):
        require_room(wanted, tmp_path / "not" / "yet" / "cues.zarr")
    assert require_room(wanted, tmp_path / "cues.zarr", done_share=0.6) == wanted.total_bytes // 2


def test_a_plan_with_more_files_than_are_free_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = plan(worlds.SPEC, 100)
    limits = SimpleNamespace(
        f_files=1000, f_favail=wanted.files // 2, f_frsize=1, f_blocks=0, f_bfree=0, f_bavail=10**12
    )
    monkeypatch.setattr(os, "statvfs", lambda place: limits)
    with pytest.raises(StoreError, match=r"needs about \d+ more files, and .* has room for \d+ \(free inodes\)"):
        require_room(wanted, tmp_path / "cues.zarr")
    require_room(wanted, tmp_path / "cues.zarr", done_share=0.6)
    limits.f_files = 0  # a file system without a limit, such as btrfs
    require_room(wanted, tmp_path / "cues.zarr")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000_000_000, "2.0 TB"), (5 * 10**18, "5000.0 PB")],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable(size) == text
