"""The fault table: damage × command → finding. Nothing blocks, and damaged bytes are never read as data."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner, Result

import stores
from lila_cues.cli import app
from stores import StoreError, locks, metadata, verify
from stores.metadata import LOCKS, NAMES_KEY, ROOT_COPY_KEY, ROOT_KEY, STATUS_KEY
from tests.stores import worlds
from tests.stores.worlds import TO_A_FILE, Damage, cut, flip

CLIPS, FAILED = 10, 5  # three tasks: complete, complete but for one failed clip, absent
SECOND = (4, 6, 7)  # the complete clips of the second task

SECONDS = 60  # in which a command has to end


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    store = worlds.create(tmp_path_factory.mktemp("faults") / "intact.zarr", CLIPS)
    worlds.fill(store, tasks=[0, 1], failing=[FAILED])
    store.publish_statuses()
    return store


@pytest.fixture(scope="module")
def values(intact: stores.CueStore) -> dict[tuple[str, int], np.ndarray]:
    """Every array of every clip, as it has to be read."""
    full = worlds.create(Path(intact.path).with_name("full.zarr"), CLIPS)
    worlds.fill(full, failing=[FAILED])
    return {(name, clip): full.read(name, clip) for name in full.arrays for clip in full.complete_clips().tolist()}


@pytest.fixture(autouse=True)
def data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for the data set from which lost clip names are restored."""
    monkeypatch.setattr("lila_cues.cli.store._recorded_clips", lambda store, root: worlds.names(CLIPS))


@pytest.fixture
def copy(intact: stores.CueStore, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: shutil.copytree(intact.path, tmp_path / name)


# what can happen to a store


def record_of(root: Path, task: int) -> Path:
    return next((root / "ledger" / "000").glob(f"{task:07d}-*"))


def shard_of(root: Path, name: str, task: int) -> Path:
    return next((root / name).glob(f"c.{task}.*"))


def swap(root: Path, *names: str) -> None:
    for name in names:
        first, second = (shard_of(root, name, task) for task in (0, 1))
        first.rename(root / "third")
        second.rename(first)
        (root / "third").rename(second)


def other_store(root: Path) -> Path:
    other = worlds.create(root.with_name(f"{root.name}-other"), CLIPS, settings={"seed": 1})
    with other.lock_task(1) as writer:
        assert writer is not None
        for clip in writer.pending():
            worlds.add(other, writer, clip, worlds.cues(clip + 100))
    return Path(other.path)


def copy_shards(root: Path) -> None:
    for name in stores.open(root).arrays:
        shutil.copy(
            shard_of(other_store(root) if name == "rgb" else root.with_name(f"{root.name}-other"), name, 1),
            shard_of(root, name, 1),
        )


def copy_record(root: Path) -> None:
    record_of(root, 1).unlink()
    shutil.copy(record_of(other_store(root), 1), root / "ledger" / "000")


def add_to_zarr(root: Path) -> None:
    group = zarr.open_group(root, mode="r+")
    group.attrs["note"] = "mine"
    group["rgb"].attrs["note"] = "mine"
    group.create_array("mine", shape=(CLIPS,), dtype="f4")[:] = 1
    with warnings.catch_warnings(action="ignore"):
        zarr.consolidate_metadata(root)


def forge(root: Path, **changes: object) -> None:
    """Change attributes of the root document as a program would that knows of the checksum."""
    document = json.loads((root / ROOT_KEY).read_bytes())
    document["attributes"] |= changes
    document["attributes"]["crc32c"] = metadata._checksum(document["attributes"])
    (root / ROOT_KEY).write_text(json.dumps(document))


def fill_scratch(root: Path) -> None:
    scratch = root / "scratch"
    for name in ("2", "junk", "99999999999999999999", f"status-{socket.gethostname()}:999999999"):
        worlds.put_in_place("folder", scratch / name)
    (scratch / "junk").chmod(0)
    (scratch / "0").write_text("a file in place of a task's folder")
    for number, kind in enumerate(("FIFO", "socket", "loop of links")):
        worlds.put_in_place(kind, scratch / f"junk {number}")
    worlds.put_in_place("FIFO", scratch / "1")


@dataclass(frozen=True)
class Row:
    """A damaged file or store, and what each command says; "" where nothing is wrong."""

    read: str = ""  # the StoreError of opening and reading everything
    build: int = 2  # clips that a build computes which continues, or
    refused: str = ""  # its StoreError
    found: str = ""  # what `verify` prints
    lost: Sequence[int] = ()  # clips that have to be built again after `repair`: these, or of flipped bits some of them
    repaired: str = ""  # what `repair` prints besides


NO_ROOT = r"no cue store at|is not a cue store, or its zarr\.json is damaged|attributes in .* are damaged"
SHARD = r"the shard .*/(depth|pair_gap)/c\.1\S* is damaged"
FILES: dict[str, tuple[Callable[[Path], Path], Row]] = {
    "the root document": (
        lambda root: root / ROOT_KEY,
        Row(NO_ROOT, 2, NO_ROOT, NO_ROOT, (), r"repaired: zarr\.json: rewritten"),
    ),
    "its copy": (
        lambda root: root / ROOT_COPY_KEY,
        Row(found=r"document: clips/header\.json: it|a", repaired="header.json: rewritten"),
    ),
    "the metadata of an array": (
        lambda root: root / "rgb" / ROOT_KEY,
        Row(found=r"document: rgb/zarr\.json: ", repaired="rgb/zarr.json: rewritten"),
    ),
    "the metadata of status": (lambda root: root / "status" / ROOT_KEY, Row(found=r"document: status/zarr\.json: ")),
    "status": (
        lambda root: root / STATUS_KEY,
        Row(refused="is a directory while writing", found=r"document: status/c\.0: "),
    ),
    "the clip names": (
        lambda root: root / NAMES_KEY,
        Row("the clip names", 2, "the clip names", found="clip_name|the clip names"),
    ),
    "a record": (
        lambda root: record_of(root, 1),
        Row(r"record .* is damaged|clip 4 .* is absent", found=r"ledger: task 1: "),
    ),
    "a large shard": (
        lambda root: shard_of(root, "depth", 1),
        Row(SHARD, found=r"(shard|chunk): (depth|clip)", lost=SECOND),
    ),
    "a small shard": (
        lambda root: shard_of(root, "pair_gap", 1),
        Row(SHARD, found=r"(shard|chunk): (pair_gap|clip)", lost=SECOND),
    ),
    "the lock file": (
        lambda root: root / LOCKS,
        Row(refused="while (locking|looking up the lock)|expected a file", found="in its way"),
    ),
}
ELSEWHERE = {
    ("a record", "deleted"),
    *product(["the lock file"], ["a flipped bit", "half of it left", "nothing left", "deleted"]),
}
HOSTILE = Row(
    r"damaged|is not a cue store",
    refused="damaged|is not a cue store",
    found="damaged",
    repaired=r"zarr\.json: rewritten",
)
STORES: dict[str, tuple[Damage, Row]] = {
    "intact": (lambda root: None, Row()),
    "a shard of another task": (
        lambda root: swap(root, "rgb"),
        Row(r"the shard .*/rgb/c\.\S* is damaged", found="recorded", lost=(0, 1, 2, 3, *SECOND)),
    ),
    "all shards of another task": (
        lambda root: swap(root, *stores.open(root).arrays),
        Row("is damaged", found="recorded", lost=(0, 1, 2, 3, *SECOND)),
    ),
    "shards of another store": (copy_shards, Row("is damaged", found="recorded", lost=SECOND)),
    "a record of another store": (
        copy_record,
        Row("not the shard that was recorded", found="written with other settings", lost=range(4, 8)),
    ),
    "a record of another task": (
        lambda root: record_of(root, 1).write_bytes(record_of(root, 0).read_bytes()),
        Row("damaged", found="damaged .name."),
    ),
    "attributes and arrays of a user": (add_to_zarr, Row()),
    "the root document of another store": (
        lambda root: shutil.copy(other_store(root) / ROOT_KEY, root),
        Row(refused="was built with other settings", found="written with other settings|header of another store"),
    ),
    "a root document with too many clips": (lambda root: forge(root, n_clips=10**13), HOSTILE),
    "a root document with fewer clips": (lambda root: forge(root, n_clips=3), HOSTILE),
    "a root document with another type": (lambda root: forge(root, spec="[1]"), HOSTILE),
    "a root document of deep JSON": (lambda root: (root / ROOT_KEY).write_text("[" * 100_000), HOSTILE),
    "a record deleted": (
        lambda root: record_of(root, 1).unlink(),
        Row("absent", 6, found="ledger: task 1: the array status has it"),
    ),
    "the ledger deleted": (lambda root: shutil.rmtree(root / "ledger"), Row("absent", 10, found="ledger: task 0: ")),
    "a file in place of the ledger": (
        lambda root: (shutil.rmtree(root / "ledger"), worlds.put_in_place("FIFO", root / "ledger")),
        Row("absent", 2, "while", "is in its way"),
    ),
    "junk in scratch": (fill_scratch, Row(repaired="removed")),
}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if not (result.exception is None or isinstance(result.exception, SystemExit | StoreError)):
        raise result.exception
    return result


def said(result: Result) -> str:
    return str(result.exception) if isinstance(result.exception, StoreError) else result.stdout


def read_all(root: Path) -> dict[tuple[str, int], np.ndarray]:
    store = stores.open(root)
    return {
        (name, clip): store.read(name, clip)
        for clip in (0, 1, 2, 3, *SECOND)
        for name in store.arrays
        if store.clip_id(clip)
    }


def build(root: Path) -> int:
    """Continue as a build does; return the number of clips computed."""
    store = stores.open_or_create(root, worlds.SPEC, worlds.names(CLIPS), worlds.SETTINGS, {})
    computed = worlds.fill(store)
    store.publish_statuses()
    return computed


def check_row(copy: Callable[[str], Path], values: dict[tuple[str, int], np.ndarray], damage: Damage, row: Row) -> None:
    def damaged(name: str) -> Path:
        root = copy(f"{name}.zarr")
        damage(root)
        return root

    def equal(root: Path) -> None:
        for key, found in read_all(root).items():
            np.testing.assert_array_equal(found, values[key])

    root = damaged("read")
    with pytest.raises(StoreError, match=row.read) if row.read else contextlib.nullcontext():
        equal(root)
    run("status", root)
    root = damaged("build")
    try:
        assert build(root) == row.build
    except StoreError as error:
        assert re.search(row.refused or "never", str(error)), error  # noqa: PT017
    root = damaged("repair")
    verified = run("verify", root)
    assert (verified.exit_code != 0) == bool(row.found), said(verified)
    assert not row.found or re.search(row.found, said(verified)), said(verified)
    repaired = run("repair", root)
    assert repaired.exit_code == 0, said(repaired)
    assert re.search(row.repaired, repaired.stdout), repaired.stdout
    assert "is repaired" in repaired.stdout
    assert run("verify", root).exit_code == 0
    again = {clip for clip in row.lost if stores.open(root).statuses()[clip] == stores.ABSENT}
    assert bool(again) == bool(row.lost)
    assert f"{len(again)} clip{'s' * (len(again) > 1)} to be built again" in repaired.stdout or not again
    assert build(root) == 2 + len(again)
    assert run("verify", root).exit_code == 0
    equal(root)


OFTEN = ("a flipped bit", "deleted", "a FIFO in its place")  # the others are slow tests, except of the data itself
CASES = [
    pytest.param(file, what, marks=() if what in OFTEN or file in ("a record", "a large shard") else pytest.mark.slow)
    for file, what in product(FILES, TO_A_FILE)
    if (file, what) not in ELSEWHERE
]


@pytest.mark.parametrize(("file", "what"), CASES)
def test_a_damaged_file(
    copy: Callable[[str], Path], values: dict[tuple[str, int], np.ndarray], file: str, what: str
) -> None:
    path, row = FILES[file]
    check_row(copy, values, lambda root: TO_A_FILE[what](path(root)), row)


@pytest.mark.parametrize("damage", STORES)
def test_a_damaged_store(copy: Callable[[str], Path], values: dict[tuple[str, int], np.ndarray], damage: str) -> None:
    check_row(copy, values, *STORES[damage])


def outcome(root: Path, values: dict[tuple[str, int], np.ndarray]) -> str:
    try:
        read = read_all(root)
    except StoreError:
        return "refused"
    return (
        "as written"
        if all(np.array_equal(read[key], values[key], equal_nan=True) for key in read)
        else "silently wrong"
    )


def check_flipped_bits(root: Path, values: dict[tuple[str, int], np.ndarray], flips: int) -> Counter[tuple[bool, str]]:
    """Flip a random bit of every file; count whether `verify` finds it, and what is read."""
    random, outcomes = np.random.default_rng(20), Counter[tuple[bool, str]]()
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name != LOCKS):
        for _ in range(flips):
            bit = int(random.integers(8 * path.stat().st_size))
            flip(path, bit)
            found = run("verify", root).exit_code != 0
            outcomes[found, outcome(root, values)] += 1
            flip(path, bit)
    assert run("verify", root).exit_code == 0
    return outcomes


def test_a_flipped_bit_of_every_file(copy: Callable[[str], Path], values: dict[tuple[str, int], np.ndarray]) -> None:
    outcomes = check_flipped_bits(copy("cues.zarr"), values, flips=1)
    assert not any(read == "silently wrong" or (read == "refused" and not found) for found, read in outcomes), outcomes


@pytest.mark.slow
def test_many_flipped_bits_of_every_file(
    copy: Callable[[str], Path], values: dict[tuple[str, int], np.ndarray]
) -> None:
    outcomes = check_flipped_bits(copy("cues.zarr"), values, flips=20)
    print(outcomes)
    assert not any(read == "silently wrong" or (read == "refused" and not found) for found, read in outcomes), outcomes


def after(command: str, root: Path, values: dict[tuple[str, int], np.ndarray]) -> str:
    """Run a command on a damaged store; return what comes of it: found, refused, as written, or what must not be."""

    def block(number: int, frame: object) -> None:
        raise TimeoutError

    def equal(store: stores.CueStore) -> bool:
        complete = set(store.complete_clips().tolist()) - {FAILED}  # which is built if its record is lost
        return all(
            np.array_equal(store.read(*key), values[key], equal_nan=True) for key in product(store.arrays, complete)
        )

    before = signal.signal(signal.SIGALRM, block)
    signal.alarm(SECONDS)
    try:
        match command:
            case "read":
                return outcome(root, values)
            case "build":
                build(root)
                found, intact = False, equal(stores.open(root))
            case "merge":
                merged = run("merge", root.with_name("merged.zarr"), root)
                found = "damaged" in merged.output
                intact = equal(stores.open(root.with_name("merged.zarr")))
            case "repair":
                repaired = run("repair", root)
                found = "repaired:" in repaired.stdout
                build(root)
                intact = run("verify", root).exit_code == 0 and equal(stores.open(root))
            case _:
                found, intact = run(command, root).exit_code != 0, True
    except TimeoutError:
        return "blocked"
    except StoreError:
        return "refused"
    except Exception as error:
        print(f"{command}: {error!r}")
        return "traceback"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return ("found" if found else "as written") if intact else "silently wrong"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", ["read", "status", "verify", "build", "merge", "repair"])
def test_every_damage_of_every_file(
    intact: stores.CueStore, tmp_path: Path, values: dict[tuple[str, int], np.ndarray], command: str
) -> None:
    outcomes, bad = Counter[str](), []
    keys = sorted(path.relative_to(intact.path) for path in Path(intact.path).rglob("*") if path.is_file())
    for key, what in product(keys, TO_A_FILE):
        root = shutil.copytree(intact.path, tmp_path / "one" / "cues.zarr")
        if (root / key).stat().st_size or "flipped" not in what:
            TO_A_FILE[what](root / key)
            result = after(command, root, values)
            outcomes[result] += 1
            if result not in ("found", "refused", "as written"):
                bad.append((str(key), what, result))
        shutil.rmtree(tmp_path / "one")
    print(command, dict(outcomes), {what: outcomes[what] for what in ("silently wrong", "traceback", "blocked")})
    assert not bad


def test_what_a_user_added_is_kept(copy: Callable[[str], Path]) -> None:
    root = copy("cues.zarr")
    add_to_zarr(root)
    before = (root / ROOT_KEY).read_bytes()
    assert "repaired:" not in run("repair", root).stdout
    assert (root / ROOT_KEY).read_bytes() == before
    for damage in (lambda: forge(root, n_clips=3), lambda: cut(root / ROOT_KEY, 0.5)):
        damage()
        assert run("repair", root).exit_code == 0
        group = zarr.open_consolidated(root)
        assert "mine" in group
        assert (group["mine"][:] == 1).all()
        assert group["rgb"].attrs["note"] == "mine"


def test_what_is_in_the_way_is_kept(copy: Callable[[str], Path]) -> None:
    root = copy("cues.zarr")
    worlds.put_in_place("folder", shard_of(root, "rgb", 1))
    assert "which was in its way" in run("repair", root).stdout
    assert [path.read_text() for path in root.glob("set-aside/*/notes.txt")] == ["of somebody"]


def test_lost_names_need_the_data_set(copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy("cues.zarr")
    cut(root / NAMES_KEY, 0)  # no record has the names of the last task
    monkeypatch.setattr("lila_cues.cli.store._recorded_clips", lambda store, root: worlds.names(3))
    result = run("repair", root)
    assert result.exit_code == 1
    assert "name that of the build with --root" in result.stdout
    assert "is still damaged" in result.stdout
    worlds.fill(full := worlds.create(root.with_name("full.zarr"), CLIPS))
    cut(Path(full.path) / NAMES_KEY, 0)
    assert "clip_name/c.0.0: restored from the records" in run("repair", full.path).stdout


def test_what_may_not_be_read_is_no_damage(copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root, open_file = copy("cues.zarr"), os.open
    shard, record = shard_of(root, "rgb", 0), record_of(root, 1)

    def forbidden(path: str, *arguments: int) -> int:
        if str(path) in (str(shard), str(record)):
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *arguments)

    with monkeypatch.context() as file_system:
        file_system.setattr(os, "open", forbidden)
        for command in ("verify", "repair"):
            result = run(command, root)
            assert result.exit_code == 1
            assert len(re.findall(r"unreadable: .*permission denied\); make it readable", result.stdout)) == 2
        with pytest.raises(StoreError, match=r"rgb/c\.0\S* cannot be read \(permission denied\)"):
            read_all(root)
    assert "no clip is lost" in run("repair", root).stdout


def test_a_part_of_the_disk_that_fails_is_named(copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One finding for a shard, and the others are verified."""
    root, read = copy("cues.zarr"), os.pread
    shard = shard_of(root, "depth", 0)
    flip(shard_of(root, "rgb", 1))
    monkeypatch.setattr("stores.backends._SMALL_FILE", 0)

    def fail(fd: int, length: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == str(shard) and offset == 0:
            raise OSError(5, "Input/output error")
        return read(fd, length, offset)

    monkeypatch.setattr(os, "pread", fail)
    result = run("verify", root)
    assert result.exit_code == 1
    assert len(re.findall(r"unreadable: depth/c\.0\S*: .*cannot be read \(input/output error\)", result.stdout)) == 1
    assert "rgb/c.1" in result.stdout
    assert "unreadable" in run("repair", root).stdout
    with pytest.raises(StoreError, match="input/output error"):
        read_all(root)


def test_repair_leaves_a_task_to_its_builder(copy: Callable[[str], Path]) -> None:
    root = copy("cues.zarr")
    flip(shard_of(root, "rgb", 0))
    with stores.open(root).lock_task(0, only_failed=True), locks.lock(root / LOCKS, 0):
        assert "is still damaged" in run("repair", root).stdout
    assert "to be built again" in run("repair", root).stdout


def test_a_damaged_clip_costs_no_other(copy: Callable[[str], Path]) -> None:
    root = copy("cues.zarr")
    flip(shard_of(root, "depth", 0), 8 * 20)  # inside the first clip's first chunk
    assert "damaged clips are marked as absent (clips 0)" in run("repair", root).stdout
    assert build(root) == 3
    store = stores.open(root)
    assert [store.clip_record(clip).attempts for clip in (0, 1)] == [2, 1]


def test_values_out_of_range_are_detected_and_rebuilt(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 4)
    with store.lock_task(0) as writer:
        assert writer is not None
        for clip in writer.pending():
            cues = worlds.cues(clip)
            worlds.add(store, writer, clip, replace(cues, depth=cues.depth - 1000) if clip == 2 else cues)
    store.publish_statuses()
    assert "value: depth of clip 2: negative inverse depth (clips 2)" in run("verify", store.path).stdout
    assert "1 clip to be built again" in run("repair", store.path).stdout
    assert worlds.fill(store) == 1
    assert run("verify", store.path).exit_code == 0


def test_a_retry_copies_only_recorded_clips(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 8)
    worlds.fill(store, failing=[1])
    for spec in store.arrays.values():
        shutil.copy(Path(store.path) / spec.shard_key(1), Path(store.path) / spec.shard_key(0))
    assert (worlds.fill(store, only_failed=True), worlds.fill(store)) == (1, 3)  # three had the bytes of another clip
    for clip in range(4):
        np.testing.assert_array_equal(store.read("rgb", clip), worlds.cues(clip).rgb)


def test_the_later_of_two_records_is_current(tmp_path: Path) -> None:
    """As after a death between the publishing of a record and the removal of the one before it."""
    store = worlds.create(tmp_path / "cues.zarr", 4)
    worlds.fill(store, failing=[1])
    first = record_of(Path(store.path), 0)
    data = first.read_bytes()
    worlds.fill(store, only_failed=True)
    first.write_bytes(data)
    assert store.statuses().tolist() == [1, 1, 1, 1]
    assert store.clip_record(1).attempts == 2
    assert list(verify.check_task(store, 0)) == []


def test_a_reader_beside_a_repair_and_a_build(
    copy: Callable[[str], Path], values: dict[tuple[str, int], np.ndarray]
) -> None:
    """The shards that it has open are replaced: one was damaged, of the other a clip had failed."""
    root = copy("cues.zarr")
    store, reader = stores.open(root), stores.open(root)
    shutil.rmtree(root / "ledger")
    worlds.fill(store, failing=[2])
    for name in store.arrays:
        flip(shard_of(root, name, 1), 8 * 20)
        np.testing.assert_array_equal(reader.read(name, 0), values[name, 0])
        with pytest.raises(StoreError, match="is damaged"):
            reader.read(name, 4)
    assert "1 clip to be built again" in run("repair", root).stdout
    assert (worlds.fill(store), worlds.fill(store, only_failed=True)) == (1, 1)
    for name in store.arrays:
        for clip in (2, 4):
            np.testing.assert_array_equal(reader.read(name, clip), values[name, clip])
