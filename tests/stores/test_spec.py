"""zarr-python, tensorstore and xarray read the same values as the shard reader."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from obstore.store import HTTPStore
from zarr.storage import ObjectStore

import stores
from tests.stores import http_server, worlds

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


@pytest.mark.parametrize("name", ["rgb", "flow_forward", "features", "depth", "frame_time", "pair_frames", "status"])
def test_tensorstore_and_zarrs_agree_with_zarr_python(store: stores.CueStore, name: str) -> None:
    expected = zarr.open_array(f"{store.path}/{name}", mode="r")[:]
    kvstore = {"driver": "file", "path": f"{store.path}/{name}"}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    np.testing.assert_array_equal(array[:].read().result(), expected)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
        np.testing.assert_array_equal(zarr.open_array(f"{store.path}/{name}", mode="r")[:], expected)


def test_names_in_every_reader(store: stores.CueStore) -> None:
    kvstore = {"driver": "file", "path": f"{store.path}/clip_name"}
    found = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()[:].read().result()
    for rows in (found, xarray.open_zarr(store.path).clip_name.values):
        assert [row.tobytes().rstrip(b"\0").decode() for row in rows] == worlds.names(10)


@pytest.mark.parametrize("place", ["copy", "zip", "http"])
def test_zarr_python_reads_a_store_elsewhere(store: stores.CueStore, tmp_path: Path, place: str) -> None:
    expected = zarr.open_group(store.path, mode="r")["depth"][:]
    if place == "copy":
        subprocess.run(["cp", "-r", store.path, tmp_path / "copy.zarr"], check=True)
        np.testing.assert_array_equal(stores.open(tmp_path / "copy.zarr").read("depth", 3), store.read("depth", 3))
        group = zarr.open_group(tmp_path / "copy.zarr", mode="r")
    elif place == "zip":
        shutil.make_archive(str(tmp_path / "cues"), "zip", store.path)
        group = zarr.open_group(zarr.storage.ZipStore(tmp_path / "cues.zip"), mode="r")
    else:
        with http_server.serve(Path(store.path).parent) as address:
            remote = ObjectStore(HTTPStore(f"{address}/cues.zarr", client_options={"allow_http": True}), read_only=True)
            np.testing.assert_array_equal(zarr.open_group(remote, mode="r")["depth"][:], expected)
            return
    np.testing.assert_array_equal(group["depth"][:], expected)


def test_attributes_of_every_array(store: stores.CueStore) -> None:
    group = zarr.open_group(store.path, mode="r")
    assert all(isinstance(value, str | int) for value in group.attrs.values())
    for name, array in group.arrays():
        assert {"long_name", "units"} <= set(array.attrs)
        assert all(array.metadata.dimension_names)
        assert ("_FillValue" in array.attrs) == (name not in ("rgb", "depth", "status", "clip_name"))
    assert group["status"].attrs["flag_meanings"] == "absent complete failed"


@pytest.mark.filterwarnings("ignore:.*(not part in the Zarr|not have a Zarr V3)")  # what xarray writes
@pytest.mark.parametrize("decoded", [False, True])
def test_xarray_writes_netcdf_and_zarr(store: stores.CueStore, tmp_path: Path, decoded: bool) -> None:
    dataset = (store.xarray() if decoded else xarray.open_zarr(store.path)).drop_encoding()
    dataset.to_netcdf(tmp_path / "cues.nc", engine="h5netcdf")
    dataset.to_zarr(tmp_path / "other.zarr")
    for written in (xarray.open_dataset(tmp_path / "cues.nc"), xarray.open_zarr(tmp_path / "other.zarr")):
        xarray.testing.assert_equal(written.features, dataset.features)
        assert written.attrs == dataset.attrs


def test_clips_are_selected_by_name(store: stores.CueStore) -> None:
    dataset, names = store.xarray(), worlds.names(10)
    np.testing.assert_array_equal(dataset.sel(clip=names[3]).depth, store.read("depth", 3))
    part = dataset.isel(clip=slice(2, 8))
    assert part.sel(clip=[names[7], names[2]])["clip"].values.tolist() == [names[7], names[2]]
    complete = dataset.where(dataset.status == 1, drop=True)
    assert complete["clip"].values.tolist() == [name for clip, name in enumerate(names) if clip != FAILED]
    with pytest.raises(KeyError, match=r"no clip is named 'x\.mp4'"):
        dataset.sel(clip="x.mp4")
    with pytest.raises(KeyError):
        part.sel(clip=names[0])


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
