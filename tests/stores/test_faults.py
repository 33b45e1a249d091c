"""Damage is detected, repaired and rebuilt; damaged bytes are never read as data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import stores
from stores import StoreError, repair, verify
from stores.verify import Finding
from tests.stores import worlds

CLIPS = 7


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    store = worlds.create(tmp_path_factory.mktemp("faults") / "intact.zarr", CLIPS)
    worlds.fill(store)
    store.publish_statuses()
    return store


@pytest.fixture
def store(intact: stores.CueStore, tmp_path: Path) -> stores.CueStore:
    shutil.copytree(intact.path, tmp_path / "cues.zarr")
    return stores.open(tmp_path / "cues.zarr")


def verify_all(store: stores.CueStore) -> list[Finding]:
    found = list(verify.check_documents(store))
    for task in range(store.n_tasks):
        found += verify.check_task(store, task)
    return found


def read_all(store: stores.CueStore) -> dict[str, np.ndarray]:
    reader = stores.open(store.path)
    clips = reader.complete_clips().tolist()
    return {name: np.stack([reader.read(name, clip) for clip in clips]) for name in reader.arrays}


def shards(store: stores.CueStore) -> list[Path]:
    return sorted(path for path in Path(store.path).glob("*/c.*") if path.parent.name != "status")


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def repair_and_rebuild(store: stores.CueStore) -> tuple[int, int]:
    """Repair what is found and build again: clips marked, clips computed."""
    found = verify_all(store)
    list(repair.repair_documents(store))
    suspects = frozenset(clip for finding in found for clip in finding.clips if finding.kind == "value")
    marked = sum(len(repair.repair_task(store, task, suspects)) for task in range(store.n_tasks))
    computed = worlds.fill(store)
    store.publish_statuses()
    return marked, computed


def test_an_intact_store_has_no_findings(store: stores.CueStore) -> None:
    assert verify_all(store) == []


def check_flipped_bits(store: stores.CueStore, count: int) -> None:
    """Flip one bit at a time, anywhere in the data; each has to be found by verification and by the reader."""
    random = np.random.default_rng(20)
    paths = shards(store)
    sizes = np.array([path.stat().st_size for path in paths])
    for _ in range(count):
        path = paths[random.choice(len(paths), p=sizes / sizes.sum())]
        bit = int(random.integers(8 * path.stat().st_size))
        flip(path, bit)
        task = int(path.name.split(".")[1])
        found = list(verify.check_task(store, task, verify.Thoroughness.CHECKSUMS))
        assert found, f"bit {bit} of {path} was not found"
        assert any(path.parent.name in finding.where or finding.kind == "chunk" for finding in found)
        with pytest.raises(StoreError, match=r"is damaged"):
            read_all(store)
        flip(path, bit)
    assert verify_all(store) == []


def test_every_flipped_bit_is_detected(store: stores.CueStore) -> None:
    check_flipped_bits(store, 60)


@pytest.mark.slow
def test_a_thousand_flipped_bits_are_detected(store: stores.CueStore) -> None:
    check_flipped_bits(store, 1000)


@pytest.mark.parametrize("damage", ["empty", "cut", "gone"])
@pytest.mark.parametrize("array", ["rgb", "features", "pair_frames"])
def test_a_truncated_shard_is_never_read_as_data(store: stores.CueStore, array: str, damage: str) -> None:
    before = read_all(store)
    path = Path(store.path) / store.arrays[array].shard_key(1)
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, 0 if damage == "empty" else path.stat().st_size // 2)
    with pytest.raises(StoreError, match=r"c\.1.*is damaged .*; run `lila-cues verify`"):
        read_all(store)
    assert [finding.clips for finding in verify_all(store)] == [(4, 5, 6)]
    assert repair_and_rebuild(store) == (3, 3)
    assert verify_all(store) == []
    for name, values in read_all(store).items():
        np.testing.assert_array_equal(values, before[name])


def test_repair_keeps_intact_clips(store: stores.CueStore) -> None:
    untouched = {path: path.read_bytes() for path in shards(store) if path.name.startswith("c.1.")}
    path = Path(store.path) / store.arrays["depth"].shard_key(0)
    flip(path, 8 * 20)  # inside the first clip's first chunk
    assert repair_and_rebuild(store) == (1, 1)
    assert verify_all(store) == []
    assert {path: path.read_bytes() for path in untouched} == untouched
    assert store.clip_record(0).attempts == 2
    assert store.clip_record(1).attempts == 1


def test_a_reader_beside_a_repair_and_a_build(store: stores.CueStore) -> None:
    """The shards that it has open are replaced: one was damaged, of the other a clip had failed."""
    before, reader = read_all(store), stores.open(store.path)
    shutil.rmtree(Path(store.path) / "ledger")
    worlds.fill(store, failing=[2])
    for spec in store.arrays.values():
        flip(Path(store.path) / spec.shard_key(1), 8 * 20)
    for name in store.arrays:
        np.testing.assert_array_equal(reader.read(name, 0), before[name][0])
        with pytest.raises(StoreError, match="is damaged"):
            reader.read(name, 4)
    assert repair_and_rebuild(store) == (1, 1)
    assert worlds.fill(store, only_failed=True) == 1
    for name in store.arrays:
        for clip in (2, 4):
            np.testing.assert_array_equal(reader.read(name, clip), before[name][clip])


def test_shards_of_another_task_are_detected(store: stores.CueStore) -> None:
    for spec in store.arrays.values():
        shutil.copy(Path(store.path) / spec.shard_key(0), Path(store.path) / spec.shard_key(1))
    found = verify_all(store)
    assert {finding.what for finding in found} == {"it is not the shard that was recorded"}
    for name in store.arrays:
        with pytest.raises(StoreError, match="it is not the shard that was recorded"):
            store.read(name, 4)
    assert repair_and_rebuild(store) == (3, 3)
    assert verify_all(store) == []


def test_a_damaged_ledger_record_is_rebuilt_from_the_shards(store: stores.CueStore) -> None:
    before = read_all(store)
    record = next((Path(store.path) / "ledger" / "000").glob("0000001-*"))
    flip(record, 8 * 40)
    assert [finding.kind for finding in verify_all(store)] == ["ledger"]
    with pytest.raises(StoreError, match=r"the ledger record .* is damaged"):
        store.clip_record(4)
    assert repair_and_rebuild(store) == (0, 0)
    assert verify_all(store) == []
    for name, values in read_all(store).items():
        np.testing.assert_array_equal(values, before[name])


def test_a_record_with_changed_content_is_damaged(store: stores.CueStore) -> None:
    record = next((Path(store.path) / "ledger" / "000").glob("0000001-*"))
    sound = record.read_text()
    record.write_text(sound.replace('"attempt":1,', '"attempt":7,', 1))
    assert record.read_text() != sound
    with pytest.raises(StoreError, match=r"the ledger record .* is damaged \(checksum\)"):
        store.clip_record(4)


def test_a_record_under_the_name_of_another_task_is_damaged(store: stores.CueStore) -> None:
    folder = Path(store.path) / "ledger" / "000"
    first, second = (next(folder.glob(f"{task:07d}-*")) for task in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises(StoreError, match=r"the ledger record .* is damaged \(name\)"):
        store.clip_record(4)


def test_a_record_of_other_settings_is_rejected(store: stores.CueStore, tmp_path: Path) -> None:
    other = worlds.create(tmp_path / "other.zarr", CLIPS, settings={"seed": 1})
    worlds.fill(other)
    for record in (Path(other.path) / "ledger" / "000").glob("0000000-*"):
        shutil.copy(record, Path(store.path) / "ledger" / "000" / record.name)
    found = verify_all(store)
    assert [finding.what for finding in found] == ["it was written with other settings than the store's"]
    assert repair_and_rebuild(store)[1] == 4
    assert verify_all(store) == []


@pytest.mark.parametrize("key", ["rgb/zarr.json", "status/zarr.json", "status/c.0"])
def test_documents_are_rewritten(store: stores.CueStore, key: str) -> None:
    flip(Path(store.path) / key, 8 * 5 + 1)
    assert [finding.where for finding in verify_all(store)] == [key]
    repair_and_rebuild(store)
    assert verify_all(store) == []


def test_the_header_is_restored_from_its_copy(store: stores.CueStore) -> None:
    root = Path(store.path) / "zarr.json"
    root.write_text(root.read_text().replace('seed\\":0', 'seed\\":8', 1))
    with pytest.raises(StoreError, match=r"attributes in .*zarr\.json are damaged .*run `lila-cues repair`"):
        stores.open(store.path)
    assert repair.restore_header(Path(store.path))
    assert verify_all(stores.open(store.path)) == []


def test_values_out_of_range_are_detected_and_rebuilt(tmp_path: Path) -> None:
    from dataclasses import replace

    store = worlds.create(tmp_path / "cues.zarr", 4)
    with store.lock_task(0) as writer:
        assert writer is not None
        for clip in writer.pending():
            cues = worlds.cues(clip)
            worlds.add(store, writer, clip, replace(cues, depth=cues.depth - 1000) if clip == 2 else cues)
    store.publish_statuses()
    assert [str(finding) for finding in verify_all(store)] == [
        "value: depth of clip 2: negative inverse depth (clips 2)"
    ]
    assert repair_and_rebuild(store) == (1, 1)
    assert verify_all(store) == []


def test_a_retry_copies_only_recorded_clips(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 8)
    worlds.fill(store, failing=[1])
    for spec in store.arrays.values():
        shutil.copy(Path(store.path) / spec.shard_key(1), Path(store.path) / spec.shard_key(0))
    assert worlds.fill(store, only_failed=True) == 4  # the failed one, and three whose bytes are another clip's
    for clip in range(4):
        np.testing.assert_array_equal(store.read("rgb", clip), worlds.cues(clip).rgb)


def test_the_later_of_two_records_is_current(tmp_path: Path) -> None:
    """As after a death between the publishing of a record and the removal of the one before it."""
    store = worlds.create(tmp_path / "cues.zarr", 4)
    worlds.fill(store, failing=[1])
    folder = Path(store.path) / "ledger" / "000"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    worlds.fill(store, only_failed=True)
    for name, data in first.items():
        (folder / name).write_bytes(data)
    assert len(list(folder.iterdir())) == 2
    assert store.statuses().tolist() == [1, 1, 1, 1]
    assert store.clip_record(1).attempts == 2
    assert list(verify.check_task(store, 0)) == []
