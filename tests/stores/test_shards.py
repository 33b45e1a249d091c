"""Shard files: indexing as in numpy, chunks in any order, and errors for invalid chunks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stores
from stores import StoreError, metadata, verify
from stores.backends import LocalFiles
from stores.encodings import Blosc, Cast, ChecksumError, with_checksum
from stores.shards import NO_CHUNK, ShardWriter, open_shard
from stores.spec import ArraySpec
from tests.stores import worlds

FRAMES = worlds.GEOMETRY.frames
SPEC = ArraySpec("values", ("index",), (8,), Cast("uint8"), {})
INDICES = (
    st.integers(-FRAMES, FRAMES - 1)
    | st.slices(FRAMES)
    | st.lists(st.integers(-FRAMES, FRAMES - 1), min_size=1, max_size=6)
    | st.none()
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    store = worlds.create(tmp_path_factory.mktemp("reader") / "cues.zarr", 5)
    worlds.fill(store)
    return store


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(clip=st.integers(0, 4), index=INDICES, name=st.sampled_from(["rgb", "depth", "features", "frame_time"]))
def test_indexing_equals_that_of_numpy(store: stores.CueStore, clip: int, index: object, name: str) -> None:
    full = store.read(name, clip)
    expected = full if index is None else full[index]
    np.testing.assert_array_equal(store.read(name, clip, index), expected)  # type: ignore[arg-type]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(chunks=st.dictionaries(st.integers(0, 11), st.binary(min_size=1, max_size=50)), order=st.randoms())
def test_a_shard_keeps_chunks_written_in_any_order(tmp_path: Path, chunks: dict, order: object) -> None:
    root = tmp_path / os.urandom(6).hex()
    path = root / SPEC.shard_key(0)
    path.parent.mkdir(parents=True)
    entries = list(chunks)
    order.shuffle(entries)  # type: ignore[attr-defined]
    shard = ShardWriter(path, 12, 1)
    for entry in entries:
        shard.write(entry, [chunks[entry]])
    size, end_crc32c = shard.finish()
    assert path.stat().st_size == size
    opened = open_shard(LocalFiles(root), SPEC, 0, 12)
    assert opened.end_crc32c == end_crc32c
    for entry in range(12):
        if entry in chunks:
            assert opened.read(entry, [0]) == [chunks[entry]]
        else:
            assert opened.index[entry].tolist() == [NO_CHUNK, NO_CHUNK]


def write_shard(root: Path, data: bytes) -> None:
    path = root / SPEC.shard_key(0)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def test_a_shard_too_short_for_its_index(tmp_path: Path) -> None:
    write_shard(tmp_path, b"0123456789")
    with pytest.raises(ChecksumError, match="it has 10 bytes, too few for its index"):
        open_shard(LocalFiles(tmp_path), SPEC, 0, 4)


def test_an_index_that_points_outside_the_file(tmp_path: Path) -> None:
    tail = with_checksum(np.array([[0, 10], [NO_CHUNK, NO_CHUNK], [50, 60]], "<u8").tobytes())
    write_shard(tmp_path, bytes(110) + tail)
    assert len(open_shard(LocalFiles(tmp_path), SPEC, 0, 3).index) == 3
    write_shard(tmp_path, bytes(109) + tail)
    with pytest.raises(ChecksumError, match="its index points outside the file"):
        open_shard(LocalFiles(tmp_path), SPEC, 0, 3)


def test_a_valid_checksum_over_invalid_content() -> None:
    header = Blosc().encode(np.zeros(8, np.uint8))[:16]
    with pytest.raises(ChecksumError, match="error during blosc decompression"):
        Blosc().decode_into(with_checksum(header[:4] + (8).to_bytes(4, "little") + bytes(40)), np.empty(8, np.uint8))


@pytest.mark.parametrize("size", [8, 99, 101, 200])
def test_a_chunk_of_another_size(size: int) -> None:
    payload = Blosc().encode(np.zeros(100, np.uint8))
    with pytest.raises(ChecksumError, match=f"it does not hold the {size} bytes of a chunk"):
        Blosc().decode_into(payload, np.empty(size, np.uint8))


def test_a_complete_clip_with_a_missing_chunk(tmp_path: Path) -> None:
    store = worlds.create(tmp_path / "cues.zarr", 4)
    worlds.fill(store)
    path = Path(store.path) / store.arrays["rgb"].shard_key(0)
    index = open_shard(store.files, store.arrays["rgb"], 0, 4).index.copy()
    index[2 * FRAMES + 1] = NO_CHUNK
    tail = with_checksum(index.tobytes())
    path.write_bytes(path.read_bytes()[: -len(tail)] + tail)
    with pytest.raises(StoreError, match="it is not the shard that was recorded"):
        store.read("rgb", 2)
    found = ["it is not the shard that was recorded", "a chunk of a complete clip is missing"]
    assert [finding.what for finding in verify.check_task(store, 0)] == found
    shard = open_shard(store.files, store.arrays["rgb"], 0, 4)  # as of version 1, which records no checksum of it
    with pytest.raises(ChecksumError, match="a chunk of a complete clip is missing"):
        shard.read_clip(2)
    assert len(shard.read_clip(1)) == FRAMES


def test_damaged_statuses() -> None:
    assert metadata.decode_statuses(with_checksum(b"\0\1\2"), "here").tolist() == [0, 1, 2]
    with pytest.raises(StoreError, match=r"here/status/c\.0 is damaged .*; run `lila-cues repair`"):
        metadata.decode_statuses(b"\0\1\2" + bytes(4), "here")
