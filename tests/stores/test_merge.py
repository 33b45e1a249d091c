"""Stores that were built separately are merged byte for byte."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import stores
from stores import StoreError, verify
from stores.merge import merge
from tests.stores import worlds
from tests.stores.version1 import downgrade


def build(path: Path, names: list[str], numbers: dict[str, int], failing: set[str] = frozenset()) -> stores.CueStore:
    """A store of some clips, each with the cues of its number; clips without a number are left out."""
    store = stores.create(path, worlds.SPEC, names, worlds.SETTINGS, {"machine": path.name})
    for task in range(store.n_tasks):
        with store.lock_task(task) as writer:
            assert writer is not None
            for clip in writer.pending():
                name = store.clip_id(clip)
                if name in failing:
                    writer.fail(clip, "broken on this machine")
                elif name in numbers:
                    worlds.add(store, writer, clip, worlds.cues(numbers[name]))
    return store


@pytest.fixture
def numbers() -> dict[str, int]:
    return {name: number for number, name in enumerate(worlds.names(14))}


def assert_intact(merged: stores.CueStore, numbers: dict[str, int]) -> None:
    for task in range(merged.n_tasks):
        assert list(verify.check_task(merged, task)) == []
    assert [finding for finding in verify.check_documents(merged) if finding.kind != "note"] == []
    for clip in merged.complete_clips().tolist():
        np.testing.assert_array_equal(merged.read("rgb", clip), worlds.cues(numbers[merged.clip_id(clip)]).rgb)


def test_parts_of_one_clip_list(tmp_path: Path, numbers: dict[str, int]) -> None:
    names = list(numbers)
    early = build(tmp_path / "early.zarr", names, {name: numbers[name] for name in names[:6]})
    late = build(tmp_path / "late.zarr", names, {name: numbers[name] for name in names[5:]})
    merged = merge(tmp_path / "all.zarr", [early, late])
    assert [merged.clip_id(clip) for clip in range(merged.n_clips)] == names
    assert (merged.statuses() == stores.COMPLETE).all()
    assert_intact(merged, numbers)


def test_overlapping_clip_lists(tmp_path: Path, numbers: dict[str, int]) -> None:
    names, counts = list(numbers), []
    first = build(tmp_path / "first.zarr", names[:6], numbers, failing={names[2], names[5]})
    second = build(tmp_path / "second.zarr", [*names[5:13:2], names[13]], dict(list(numbers.items())[:13]))
    merged = merge(tmp_path / "all.zarr", [first, second], counts.append)
    assert [merged.clip_id(clip) for clip in range(merged.n_clips)] == [*names[:6], *names[7:13:2], names[13]]
    assert merged.statuses().tolist() == [1, 1, 2, 1, 1, 1, 1, 1, 1, 0]
    assert merged.clip_record(2).reason == "broken on this machine"
    assert merged.provenance["merged_from"] == [{"machine": "first.zarr"}, {"machine": "second.zarr"}]
    assert sum(counts) == merged.n_clips
    assert_intact(merged, numbers)


def test_a_merged_store_can_be_completed(tmp_path: Path, numbers: dict[str, int]) -> None:
    names = list(numbers)
    parts = [build(tmp_path / f"{n}.zarr", names, {name: numbers[name] for name in names[n::3]}) for n in range(2)]
    merged = merge(tmp_path / "all.zarr", parts)
    assert worlds.fill(merged) == len(names[2::3])
    assert_intact(merged, numbers)


def test_different_settings_are_refused(tmp_path: Path, numbers: dict[str, int]) -> None:
    first = build(tmp_path / "first.zarr", list(numbers), numbers)
    other = worlds.create(tmp_path / "other.zarr", 4, settings={"profile": {"name": "large"}})
    with pytest.raises(StoreError, match=r"settings\.profile\.name: large, not tiny"):
        merge(tmp_path / "all.zarr", [first, other])
    assert not (tmp_path / "all.zarr").exists()


def test_version_1_is_read_and_converted(tmp_path: Path, numbers: dict[str, int]) -> None:
    names = list(numbers)
    new = build(tmp_path / "store.zarr", names, numbers, failing={names[5]})
    expected = {name: new.read(name, 1) for name in new.arrays}
    new.publish_statuses()
    old = stores.open(downgrade(new))
    assert (old.header.version, old.fingerprint, old.provenance) == (1, worlds.SETTINGS, {"machine": "store.zarr"})
    assert [old.clip_id(clip) for clip in range(14)] == names
    assert old.clip_record(5).reason == "broken on this machine"
    assert old.pair(1, 0).depth.shape == (2, 8, 10)
    dataset = old.xarray()
    for name, values in expected.items():
        np.testing.assert_array_equal(old.read(name, 1), values)
        if name in dataset:
            np.testing.assert_array_equal(dataset.sel(clip=names[1])[name], values)
    with pytest.raises(
        StoreError, match=r"version 1 of the format.*convert it with `lila-cues merge NEW .*store\.zarr`"
    ):
        worlds.fill(old, tasks=[0])
    with pytest.raises(StoreError, match=r"lila-cues merge"):
        list(verify.check_documents(old))
    with pytest.raises(StoreError, match=r"lila-cues merge"):
        stores.open_or_create(old.path, worlds.SPEC, names, worlds.SETTINGS, {})
    merged = merge(tmp_path / "new.zarr", [old])
    assert (merged.header.version, merged.statuses().tolist()) == (2, [1] * 5 + [2] + [1] * 8)
    assert_intact(merged, numbers)


def test_a_damaged_clip_is_taken_from_another_store_or_left_absent(tmp_path: Path, numbers: dict[str, int]) -> None:
    names, notes = list(numbers), list[str]()
    first, second = (build(tmp_path / f"{n}.zarr", names[n * 3 : n * 3 + 4], numbers) for n in range(2))
    (Path(second.path) / second.arrays["depth"].shard_key(0)).write_bytes(b"")
    merged = merge(tmp_path / "all.zarr", [second, first], on_damaged=notes.append)
    status = {merged.clip_id(clip): status for clip, status in enumerate(merged.statuses().tolist())}
    assert status == {name: int(n < 4) for n, name in enumerate(names[:7])}
    assert notes == [f"clip {name} is damaged in {second.path}" for name in names[3:7]]
    assert_intact(merged, numbers)


def test_a_merge_that_was_killed_continues(tmp_path: Path, numbers: dict[str, int]) -> None:
    store = build(tmp_path / "store.zarr", list(numbers), numbers)

    def kill(n_clips: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "all.zarr", [store], kill)
    done = []
    merged = merge(tmp_path / "all.zarr", [store], done.append)
    assert sum(done) == len(numbers) - store.spec.shard_clips
    assert (merged.statuses() == stores.COMPLETE).all()
    assert_intact(merged, numbers)


def rebuild(store: stores.CueStore, clip: int, cues: stores.ClipCues) -> None:
    """Put other cues in place of a clip's."""
    shutil.rmtree(Path(store.path) / "ledger" / "000")
    (Path(store.path) / "ledger" / "000").mkdir()
    with store.lock_task(0) as writer:
        assert writer is not None
        for each in writer.pending():
            worlds.add(store, writer, each, cues if each == clip else worlds.cues(each))


def test_clips_of_the_same_name_and_other_contents_are_refused(tmp_path: Path, numbers: dict[str, int]) -> None:
    first, second = (build(tmp_path / f"{n}.zarr", list(numbers)[:4], numbers) for n in range(2))
    rebuild(second, 2, worlds.cues(20))
    with pytest.raises(
        StoreError, match=r"clip \S+ \S*2\.mp4 of .*1\.zarr is another one than that of .*0\.zarr \(rgb"
    ):
        merge(tmp_path / "all.zarr", [first, second])
    assert not (tmp_path / "all.zarr").exists()


def test_clips_that_differ_by_rounding_are_the_same(tmp_path: Path, numbers: dict[str, int]) -> None:
    first, second = (build(tmp_path / f"{n}.zarr", list(numbers)[:4], numbers) for n in range(2))
    cues = worlds.cues(2)
    rebuild(second, 2, replace(cues, flow_forward=cues.flow_forward + 0.02))
    assert not np.array_equal(first.read("flow_forward", 2), second.read("flow_forward", 2))
    merged = merge(tmp_path / "all.zarr", [first, second])
    np.testing.assert_array_equal(merged.read("flow_forward", 2), first.read("flow_forward", 2))


def test_tasks_are_merged_side_by_side(tmp_path: Path, numbers: dict[str, int]) -> None:
    names, meet = list(numbers), threading.Barrier(2, timeout=20)
    source = build(tmp_path / "source.zarr", names, numbers)

    def run(merge_task: Callable[[int], int], tasks: Iterable[int]) -> Iterable[int]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda task: (task < 2 and meet.wait(), merge_task(task))[1], list(tasks)))

    merged = merge(tmp_path / "all.zarr", [source], run=run)
    assert (merged.statuses() == stores.COMPLETE).all()
    assert_intact(merged, numbers)
