"""A store as dask and xarray: the same values, NaN where a clip is not complete, bounded memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import dask
import dask.array
import numpy as np
import pytest

import stores
from stores import StoreError
from tests.stores import worlds

FAILED = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    store = worlds.create(tmp_path_factory.mktemp("views") / "cues.zarr", 10)
    worlds.fill(store, failing=[FAILED])
    return store


@pytest.mark.parametrize("name", ["rgb", "depth", "flow_forward", "features", "pair_frames", "frame_time"])
def test_dask_equals_the_store(store: stores.CueStore, name: str) -> None:
    array = store.dask(name)
    assert isinstance(array, dask.array.Array)
    assert array.chunks[0] == (4, 4, 2)
    assert array.dtype == store.read(name, 0).dtype
    values = array.compute(scheduler="threads")
    for clip in store.complete_clips().tolist():
        np.testing.assert_array_equal(values[clip], store.read(name, clip))


def test_a_clip_that_is_not_complete_is_missing(store: stores.CueStore) -> None:
    assert np.isnan(store.dask("depth")[FAILED].compute()).all()
    assert (store.dask("pair_frames")[FAILED].compute() == -1).all()


def test_any_window_of_a_dask_array(store: stores.CueStore) -> None:
    array, values = store.dask("flow_forward"), store.dask("flow_forward").compute()
    np.testing.assert_array_equal(array[3:9:2, 1, :, 2:5].compute(), values[3:9:2, 1, :, 2:5])


def test_dask_arrays_can_be_pickled(store: stores.CueStore) -> None:
    array = pickle.loads(pickle.dumps(store.dask("depth")))  # noqa: S301
    np.testing.assert_array_equal(array[9].compute(), store.read("depth", 9))


def test_the_inspection_of_the_readme(store: stores.CueStore) -> None:
    depth, flow = store.dask("depth"), store.dask("flow_forward")
    mean_depth = dask.array.nanmean(depth, axis=(1, 2, 3))
    valid_flow = dask.array.isfinite(flow).mean(axis=(1, 2, 3, 4))
    complete = store.complete_clips()
    means, shares = dask.compute(mean_depth[complete], valid_flow[complete])
    for clip, mean, share in zip(complete.tolist(), means, shares, strict=True):
        cues = worlds.cues(clip)
        assert mean == pytest.approx(np.nanmean(cues.depth), rel=1e-3)
        assert share == pytest.approx(np.isfinite(cues.flow_forward).mean())


def test_the_dataset_is_decoded(store: stores.CueStore) -> None:
    dataset = store.xarray()
    assert dataset.features.dims == ("clip", "frame", "channel", "feature_y", "feature_x")
    assert "features_scale" not in dataset
    np.testing.assert_array_equal(dataset.features[2].values, store.read("features", 2))
    assert dataset.status.values.tolist() == store.statuses().tolist()
    assert float(dataset.depth.mean(skipna=True)) > 0


@pytest.mark.parametrize(("megabytes", "clips"), [(1, 16), (8, 16), (9, 8), (40, 2), (100, 1), (500, 1)])
def test_a_chunk_is_a_shard_or_an_equal_part_of_one(tmp_path: Path, megabytes: int, clips: int) -> None:
    geometry = stores.Geometry(1, 1, (8, 8), (megabytes * 32, 8192), (4, 4), (2, 2), 6)  # depth is decoded to float32
    store = worlds.create(tmp_path / "cues.zarr", 16, stores.StoreSpec(geometry, shard_clips=16))
    assert store.dask("depth").chunks[0] == (clips,) * (16 // clips)


def test_no_such_array(store: stores.CueStore) -> None:
    with pytest.raises(StoreError, match="has no array 'albedo'; it has rgb, depth"):
        store.dask("albedo")


MEASURE = """
import sys
import dask, dask.array, numpy, stores
store = stores.open(sys.argv[1])
store.dask("frame_index").sum().compute()
peak = lambda: [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
before = peak()
with dask.config.set(scheduler="threads", num_workers=2):
    dask.array.nanmean(store.dask("features"), axis=(1, 2, 3, 4)).compute()
print(peak() - before)
"""


def test_memory_of_a_reduction_is_bounded(tmp_path: Path) -> None:
    geometry = stores.Geometry(2, 1, (8, 8), (8, 8), (64, 64), (4, 4), 64)
    store = worlds.create(tmp_path / "cues.zarr", 64, stores.StoreSpec(geometry, shard_clips=4))
    worlds.fill(store)
    decoded_megabytes = store.dask("features").nbytes / 2**20
    printed = subprocess.run([sys.executable, "-c", MEASURE, store.path], check=True, capture_output=True, text=True)
    assert int(printed.stdout) / 2**10 < decoded_megabytes / 2
