"""zarr-python, tensorstore and xarray read the same values as the shard reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr

import stores
from tests.stores import worlds

FAILED, LAST = 5, 9


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    store = worlds.create(tmp_path_factory.mktemp("format") / "cues.zarr", 10)
    worlds.fill(store, failing=[FAILED])
    store.publish_statuses()
    return store


@pytest.mark.parametrize("clip", [0, LAST])
def test_zarr_python_agrees_with_the_shard_reader(store: stores.CueStore, clip: int) -> None:
    group = zarr.open_group(store.path, mode="r")
    assert set(group.array_keys()) == {*store.arrays, "status", "clip_name"}
    for name, spec in store.arrays.items():
        stored = store._reader.read(name, clip, range(spec.clip_chunks))
        array = group[name]
        assert isinstance(array, zarr.Array)
        assert array.metadata.dimension_names == ("clip", *spec.dimensions)
        np.testing.assert_array_equal(np.asarray(array[clip]), stored if spec.split else stored[0])


@pytest.mark.parametrize("name", ["rgb", "flow_forward", "features", "depth", "frame_time"])
def test_tensorstore_agrees_with_the_shard_reader(store: stores.CueStore, name: str) -> None:
    kvstore = {"driver": "file", "path": f"{store.path}/{name}"}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    spec = store.arrays[name]
    stored = store._reader.read(name, 3, range(spec.clip_chunks))
    np.testing.assert_array_equal(array[3].read().result(), stored if spec.split else stored[0])


def test_xarray_reads_and_decodes(store: stores.CueStore) -> None:
    dataset = xarray.open_zarr(store.path)
    for name in ("depth", "flow_forward", "flow_backward", "rgb", "pair_frames"):
        np.testing.assert_array_equal(dataset[name][2].values, store.read(name, 2))
    scaled = dataset.features[2] * dataset.features_scale[2]
    np.testing.assert_allclose(scaled.transpose(*dataset.features.dims[1:]), store.read("features", 2), rtol=1e-6)
    assert dataset.status.values.tolist() == store.statuses().tolist()


def test_absent_clips_are_nan_and_not_zero(store: stores.CueStore) -> None:
    dataset = xarray.open_zarr(store.path)
    for name in store.arrays:
        assert name == "rgb" or np.isnan(dataset[name][FAILED].values).all()


def test_every_document_is_plain_zarr_v3(store: stores.CueStore) -> None:
    for document in Path(store.path).rglob("zarr.json"):
        content = json.loads(document.read_text())
        assert content["zarr_format"] == 3
        assert content["node_type"] in ("array", "group")


@pytest.mark.parametrize("n_clips", [1, 4, 5, 23])
def test_number_of_files_is_bounded(tmp_path: Path, n_clips: int) -> None:
    store = worlds.create(tmp_path / "cues.zarr", n_clips)
    empty = count_files(tmp_path)
    worlds.fill(store)
    worlds.fill(store, only_failed=True)
    tasks = -(-n_clips // store.spec.shard_clips)
    assert empty <= len(store.arrays) + 8
    assert count_files(tmp_path) - empty <= (len(store.arrays) + 1) * tasks


def count_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))
