"""Creating, opening and refusing stores; every message names the place and the remedy."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import stores
from stores import StoreError, StoreSpec, metadata
from stores.config import differences
from stores.encodings import Cast
from stores.shards import encode_clip, stored_values
from stores.spec import FrameMaps
from tests.stores import worlds


def test_spec_to_attributes_and_back(tmp_path: Path) -> None:
    spec = replace(worlds.SPEC, flow=stores.spec.FixedPoint(1 / 32), shard_clips=3)
    assert worlds.create(tmp_path / "cues.zarr", 4, spec).spec == spec
    assert stores.open(tmp_path / "cues.zarr").spec == spec


def test_recorded_properties_are_read_back(tmp_path: Path) -> None:
    store = stores.open(worlds.create(tmp_path / "cues.zarr", 9).path)
    assert store.fingerprint == worlds.SETTINGS
    assert store.provenance == {"made": "for a test"}
    assert (store.n_clips, store.n_tasks, store.task_clips(2)) == (9, 3, range(8, 9))
    assert [store.clip_id(clip) for clip in range(9)] == worlds.names(9)
    assert [store.clips.find(name) for name in worlds.names(9)] == list(range(9))
    assert store.clips.find("class é/clip_0000") is None


def test_continuing_with_the_same_settings(tmp_path: Path) -> None:
    arguments = (tmp_path / "cues.zarr", worlds.SPEC, worlds.names(5), worlds.SETTINGS, {})
    worlds.fill(stores.open_or_create(*arguments))
    assert len(stores.open_or_create(*arguments).complete_clips()) == 5


def test_a_store_continues_without_clips_that_were_taken_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    names = worlds.names(5)
    store = worlds.create(tmp_path / "cues.zarr", 5)
    again = stores.open_or_create(store.path, worlds.SPEC, names[1:4], worlds.SETTINGS, {})
    assert list(again.clips) == names
    (record,) = caplog.records
    assert f"no longer there: 2 clips of the store ({names[0]} …)" in record.getMessage()
    for other, difference in ((names[::-1], "in another order"), (["x", *names[1:]], r"1 are not in the store \(x\)")):
        with pytest.raises(StoreError, match=f"clips: {difference}"):
            stores.open_or_create(store.path, worlds.SPEC, other, worlds.SETTINGS, {})


def test_other_settings_are_refused_and_listed(tmp_path: Path) -> None:
    path = Path(worlds.create(tmp_path / "cues.zarr", 5).path)
    settings = {"profile": {"name": "small", "encoder": "tiny"}, "seed": 0}
    spec = replace(worlds.SPEC, shard_clips=8)
    with pytest.raises(StoreError) as refused:
        stores.open_or_create(path, spec, worlds.names(6), settings, {})
    message = str(refused.value)
    assert "settings.profile.name: tiny, not small" in message
    assert "spec.shard_clips: 4, not 8" in message
    assert f"clips: 1 are not in the store ({worlds.names(6)[5]})" in message
    assert "was built with other settings" in message
    assert "encoder" not in message


def test_different_extra_cues_are_listed_by_name() -> None:
    extra = [{"name": "normals", "encoding": {"kind": "steps"}}]
    assert differences({}, {"extra": extra}) == ["extra: none, not normals"]


def test_an_existing_path_is_not_overwritten(tmp_path: Path) -> None:
    worlds.create(tmp_path / "cues.zarr", 5)
    with pytest.raises(StoreError, match=r"cues\.zarr exists; open it to continue"):
        worlds.create(tmp_path / "cues.zarr", 5)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "no clips were given for the store"),
        (["a", "b", "a"], "clips 'a' and 'a' have the same name"),
        (["caf\u00e9", "b", "cafe\u0301"], r"clips 'caf\\xe9' and 'cafe\\u0301' .* differs only by Unicode normal"),
        (["a", "b\udcff.mp4"], r"'b\\udcff\.mp4' cannot name a clip: names are UTF-8"),
        (["a", ""], "'' cannot name a clip"),
        (["a\nb"], r"'a\\nb' cannot name a clip"),
    ],
)
def test_bad_clip_lists(tmp_path: Path, clips: list[str], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        stores.create(tmp_path / "cues.zarr", worlds.SPEC, clips, {}, {})
    assert not (tmp_path / "cues.zarr").exists()


def test_a_store_is_created_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"no space left in .* while creating the store"):
        worlds.create(tmp_path / "cues.zarr", 5)
    assert list(tmp_path.iterdir()) == []


START = """
import sys, time, stores
from tests.stores import worlds
while time.time() < float(sys.argv[2]):
    pass
print(stores.open_or_create(sys.argv[1], worlds.SPEC, worlds.names(9), worlds.SETTINGS, {}).n_clips)
"""


def test_builders_that_start_a_store_at_once(tmp_path: Path) -> None:
    start = [sys.executable, "-c", START, str(tmp_path / "cues.zarr"), str(time.time() + 3)]
    builders = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [builder.communicate(timeout=60)[0] for builder in builders] == ["9\n"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["cues.zarr"]


def test_a_slower_builder_opens_the_store_of_the_faster_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faster = worlds.create(tmp_path / "other.zarr", 5)

    def rename(draft: Path, root: Path) -> None:
        if not root.exists():
            os.replace(faster.path, root)  # while the draft was written
        os.rename(draft, root)

    monkeypatch.setattr(Path, "rename", rename)
    store = stores.open_or_create(tmp_path / "cues.zarr", worlds.SPEC, worlds.names(5), worlds.SETTINGS, {})
    assert store.provenance == faster.provenance
    assert [path.name for path in tmp_path.iterdir()] == ["cues.zarr"]


def test_drafts_of_killed_builders_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    for name in (f"{host}:{ended.pid}", "elsewhere:1", "lately:1", f"{host}:{os.getppid()}", f"{host}:x"):
        (tmp_path / f".cues.zarr.new-{name}" / "clips").mkdir(parents=True)
    os.utime(tmp_path / ".cues.zarr.new-elsewhere:1", (0, 0))
    worlds.create(tmp_path / "cues.zarr", 5)
    left = sorted(path.name.removeprefix(".cues.zarr.new-") for path in tmp_path.iterdir())
    assert left == sorted(["cues.zarr", "lately:1", f"{host}:{os.getppid()}", f"{host}:x"])


def test_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    for place in ("nothing", "file", "."):
        with pytest.raises(StoreError, match=r"no cue store at .*: a folder with zarr\.json was expected"):
            stores.open(tmp_path / place)


@pytest.mark.parametrize("content", ["", "{", '{"attributes": {}}', '{"attributes": {"lila": 3}}', "[]"])
def test_another_kind_of_zarr_group(tmp_path: Path, content: str) -> None:
    (tmp_path / "zarr.json").write_text(content)
    with pytest.raises(StoreError, match=r"is not a cue store, or its zarr\.json is damaged"):
        stores.open(tmp_path)


def test_names_that_differ_by_case_are_different_clips(tmp_path: Path) -> None:
    store = stores.create(tmp_path / "cues.zarr", worlds.SPEC, ["dQw4w9WgXcQ", "dqw4w9wgxcq"], {}, {})
    assert [store.clips.find(name) for name in ("dqw4w9wgxcq", "dQw4w9WgXcQ", "d")] == [1, 0, None]


def rewrite(store: stores.CueStore, **changes: object) -> None:
    """Change the store's attributes as a program would that knows of the checksum."""
    path = Path(store.path) / "zarr.json"
    document = json.loads(path.read_text())
    attributes = document["attributes"] | changes
    document["attributes"] = {**attributes, "crc32c": metadata._checksum(attributes)}
    path.write_text(json.dumps(document))


def with_field(place: str, value: object) -> dict[str, object]:
    """The attribute `spec` with another value of one field."""
    document = worlds.SPEC.to_dict()
    *parents, name = place.split(".")
    inner = document
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    return {"spec": json.dumps(document)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, r"in format lila-cue-store version 3, this program reads .* 2; update lila-pixels"),
        ({"format_version": 0}, r"version 0, this program reads .*; build the store again"),
        ({"format_version": [1]}, r"version \[1\], this program reads"),
        ({"format": "other"}, r"in format other version 2"),
        ({"spec": "{"}, r"the attributes in .*zarr\.json are damaged"),
        ({"spec": "[" * 9999}, r"damaged \(maximum recursion"),
        ({"spec": '{"geometry": {}}'}, r"damaged \(geometry\.frames: Field required\); run `lila-cues repair`"),
        ({"spec": 7}, r"damaged \(the JSON object must be str"),
        ({"fingerprint": "[]"}, r"damaged \(fingerprint: Input should be a valid dict"),
        ({"n_clips": 10**13}, "n_clips: Input should be less than"),
        ({"n_clips": "5"}, "n_clips: Input should be a valid integer"),
        ({"n_clips": 5.5}, "n_clips: Input should be a valid integer"),
        ({"n_clips": 0}, "n_clips: Input should be greater than"),
        (
            {"n_clips": 10**8},
            r"clip_name/c\.0\.0 are damaged \(it has 119 bytes, not 2,300,000,004 for 100,000,000 clips",
        ),
        ({"clip_name_bytes": 1}, r"it has 119 bytes, not 9 for 5 clips\); run `lila-cues repair`"),
        (with_field("shard_clips", 0), "shard_clips: Input should be greater"),
        (with_field("shard_clips", 10**9), "shard_clips: Input should be less"),
        (with_field("shard_clips", True), "shard_clips: Input should be a valid integer"),
        (with_field("geometry.frames", 10**12), r"geometry\.frames: Input should be less"),
        (with_field("geometry.pairs", -3), r"geometry\.pairs: Input should be greater"),
        (with_field("geometry.base", [8]), r"geometry\.base\.1: Field required"),
        (with_field("geometry.cue", [8, 1e9]), r"geometry\.cue\.1: Input should be a valid integer"),
        (with_field("depth.dtype", "object"), r"depth\..*dtype: Input should be"),
        (with_field("flow.step", 0), r"flow\..*step: Input should be greater than 0"),
        (with_field("rgb.codec.shuffle", "twice"), r"shuffle: Input should be 'noshuffle'"),
        (with_field("extra", [{}]), r"extra\.0\.name: Field required"),
        (with_field("frames", 4), r"frames: Unexpected keyword"),
    ],
)
def test_invalid_attributes(tmp_path: Path, change: dict[str, object], message: str) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 5)
    rewrite(store, **change)
    with pytest.raises(StoreError, match=message):
        stores.open(store.path)


def test_chunks_too_large_for_their_codec(tmp_path: Path) -> None:
    large = replace(worlds.GEOMETRY, features=(16384, 16384), channels=64)
    with pytest.raises(StoreError, match=r"a frame of features would take 17,179,869,184 bytes, more than the 2,147"):
        worlds.create(tmp_path / "cues.zarr", 5, replace(worlds.SPEC, geometry=large))


def test_an_extra_cue_under_a_name_in_use(tmp_path: Path) -> None:
    for name in ("depth", "ledger", "status"):
        maps = FrameMaps(name, ("x",), "", Cast("float16"), (0, 1), 0.1)
        with pytest.raises(StoreError, match="two parts of a store have the same name"):
            worlds.create(tmp_path / "cues.zarr", 5, replace(worlds.SPEC, extra=(maps,)))


def test_clip_names_are_verified_when_they_are_first_used(tmp_path: Path) -> None:
    path = Path(worlds.create(tmp_path / "cues.zarr", 5).path) / "clip_name/c.0.0"
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    store = stores.open(tmp_path / "cues.zarr")
    with pytest.raises(StoreError, match=r"clip_name/c\.0\.0 are damaged \(its checksum .*; run `lila-cues repair`"):
        store.clip_id(0)
    with pytest.raises(StoreError, match=r"are damaged"):
        worlds.fill(store)
    others = stores.create(tmp_path / "others.zarr", worlds.SPEC, [name.upper() for name in worlds.names(5)], {}, {})
    path.write_bytes((Path(others.path) / "clip_name/c.0.0").read_bytes())
    with pytest.raises(StoreError, match=r"it is not the list that zarr\.json records"):
        store.clip_id(0)
    path.unlink()
    with pytest.raises(StoreError, match="it is missing"):
        stores.open(tmp_path / "cues.zarr")


def test_unreadable_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 5)

    def forbidden(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(StoreError, match=r"zarr\.json cannot be read \(permission denied\); make it readable"):
        stores.open(store.path)


def test_unwritable_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 5)

    def forbidden(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied", str(arguments[0]))

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(StoreError, match=r"permission denied while locking task 0 in .*; make it writable"):
        worlds.fill(store)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    store = worlds.create(tmp_path / "cues.zarr", 5)
    monkeypatch.setattr("fcntl.lockf", none)
    with pytest.raises(StoreError, match=r"has no record locks \(no locks available\)"):
        worlds.fill(store)


def test_cues_of_another_shape(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 4)
    with store.lock_task(0) as writer:
        assert writer is not None
        cues = worlds.cues(0)
        with pytest.raises(
            StoreError, match=r"depth of clip .* has shape \(4, 8, 9\), but this store keeps \(4, 8, 10\)"
        ):
            worlds.add(store, writer, 0, replace(cues, depth=cues.depth[..., 1:]))
        worlds.add(store, writer, 0, cues)
        encoded = encode_clip(store.clip_id(0), store.arrays, stored_values(store.arrays, cues))
        for clip in (0, 9):
            with pytest.raises(StoreError, match=f"clip {clip} is not pending in task 0; take clips from"):
                writer.add(clip, encoded)
    assert store.statuses().tolist() == [1, 0, 0, 0]


def test_missing_clips(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 4)
    with pytest.raises(StoreError, match="expected a clip from 0 to 3, found 4; choose one of those"):
        store.read("rgb", 4)
    with pytest.raises(StoreError, match=r"clip 1 of .* is absent; read one of `complete_clips\(\)`"):
        store.pair(1, 0)
    with pytest.raises(StoreError, match="expected a clip from 0 to 3, found 4"):
        store.clip_id(4)
    with pytest.raises(IndexError):
        store.clips[4]


def test_an_array_that_is_not_a_cue_of_a_pair(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 4)
    worlds.fill(store)
    with pytest.raises(StoreError, match="'frame_time' is not a cue of a pair; choose from rgb, depth"):
        store.pair(0, 0, ["frame_time"])


def test_only_failed_clips_are_retried(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 8)
    worlds.fill(store, tasks=[0], failing=[1])
    assert worlds.fill(store, only_failed=True) == 1
    assert store.statuses().tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert store.clip_record(1).attempts == 2
    assert store.clip_record(0).attempts == 1


WORKER = """
import multiprocessing, sys, numpy, stores
def total(store, clip):
    return float(numpy.nansum(store.pair(clip, 1).depth)), store.read("rgb", clip).sum()
if __name__ == "__main__":
    store = stores.open(sys.argv[1])
    here = [total(store, clip) for clip in range(8)]
    context = multiprocessing.get_context(sys.argv[2])
    with context.Pool(2) as pool:
        there = pool.starmap(total, [(store, clip) for clip in range(8)])
    assert here == there == [total(store, clip) for clip in range(8)]
"""

INHERITED = """
import os, sys, numpy, stores
store = stores.open(sys.argv[1])
here = [store.read("rgb", clip).sum() for clip in range(8)]
child = os.fork()
for _ in range(50):
    assert here == [store.read("rgb", clip).sum() for clip in range(8)]
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("arguments", [("fork",), ("forkserver",), ("spawn",), ()])
def test_reading_in_other_processes(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 8)
    worlds.fill(store)
    (tmp_path / "script.py").write_text(WORKER if arguments else INHERITED)
    subprocess.run([sys.executable, tmp_path / "script.py", store.path, *arguments], check=True, timeout=60)


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import dask, numpy, stores, stores.backends
stores.backends._SMALL_FILE = 0  # bytes: each shard stays an open file
store = stores.open(sys.argv[1])
with dask.config.set(scheduler="threads", num_workers=8):
    values = dask.compute({name: store.dask(name) for name in store.arrays})[0]
for name in store.arrays:
    numpy.testing.assert_array_equal(values[name], [store.read(name, clip) for clip in range(store.n_clips)])
"""


def test_more_shards_than_a_process_may_open_files(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 40, StoreSpec(worlds.GEOMETRY, shard_clips=1))
    worlds.fill(store)
    subprocess.run([sys.executable, "-c", FEW_FILES, store.path], check=True, timeout=60)


MEMORY = """
import sys, stores
store = stores.open(sys.argv[1])
store.clip_id(649_999), store.statuses()
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def test_opening_costs_the_same_for_many_clips(tmp_path: Path) -> None:
    names = [f"class_{n % 700:03d}/{n:011d}_000010_000020.mp4" for n in range(650_000)]
    spec = StoreSpec(worlds.GEOMETRY)
    many = stores.create(tmp_path / "many.zarr", spec, names, worlds.SETTINGS, {})
    few = stores.create(tmp_path / "few.zarr", spec, names[:100], worlds.SETTINGS, {})
    assert sum(path.is_file() for path in Path(many.path).rglob("*")) < 30

    def seconds(path: str) -> float:
        start = time.perf_counter()
        store = stores.open(path)
        assert len(store.statuses()) == store.n_clips
        opened = time.perf_counter() - start
        assert store.clip_id(99) == names[99]  # verifies all names
        assert time.perf_counter() - start < 1
        return opened

    small, large = (min(seconds(store.path) for _ in range(5)) for store in (few, many))
    assert large < 10 * small + 0.005
    printed = subprocess.run([sys.executable, "-c", MEMORY, many.path], check=True, capture_output=True, text=True)
    assert int(printed.stdout) < 200 * 1024
