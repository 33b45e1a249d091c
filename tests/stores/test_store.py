"""Values that are read equal those that were written, within the stated bounds."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import stores
from stores import StoreError
from tests.stores import worlds


@pytest.fixture
def store(tmp_path: Path) -> stores.CueStore:
    store = worlds.create(tmp_path / "cues.zarr", 10)
    worlds.fill(store, failing=[5])
    return store


def test_statuses_follow_the_ledger(store: stores.CueStore) -> None:
    assert store.statuses().tolist() == [1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert store.complete_clips().tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert list(store.pending_tasks()) == []
    assert list(store.pending_tasks(only_failed=True)) == [1]
    assert store.clip_record(5).reason == "clip 5 cannot be decoded"


@pytest.mark.parametrize("clip", [0, 4, 9])
def test_read_equals_written(store: stores.CueStore, clip: int) -> None:
    cues = worlds.cues(clip)
    for name in store.arrays:
        if name.endswith("_scale"):
            continue
        read, written = store.read(name, clip), np.asarray(getattr(cues, name))
        np.testing.assert_array_equal(np.isnan(read), np.isnan(written))
        np.testing.assert_allclose(read, written, atol=0.05, rtol=1e-3)


def test_pair(store: stores.CueStore) -> None:
    cues = worlds.cues(7)
    pair = store.pair(7, 2)
    frames = cues.pair_frames[2].tolist()
    assert pair.frames == tuple(frames)
    assert pair.gap == 3
    np.testing.assert_array_equal(pair.rgb, cues.rgb[frames])
    np.testing.assert_array_equal(pair.features, store.read("features", 7, frames))
    np.testing.assert_array_equal(pair.flow_forward, store.read("flow_forward", 7, 2))
    assert store.pair(7, 2, ["depth"]).rgb is None


def test_a_pair_with_selected_channels(store: stores.CueStore) -> None:
    full, selected = store.pair(7, 2), store.pair(7, 2, channels=[4, 1])
    for name in ("features", "features_raw"):
        np.testing.assert_array_equal(selected[name], full[name][:, [4, 1]])
    assert selected.feature_channels is not None
    assert full.feature_channels is not None
    assert selected.feature_channels.tolist() == full.feature_channels[[4, 1]].tolist()
    np.testing.assert_array_equal(selected.depth, full.depth)
    with pytest.raises(KeyError, match="rgb"):
        store.pair(7, 2, ["depth"])["rgb"]
    with pytest.raises(StoreError, match="'pair_gap' is not a cue of a pair; choose from rgb, depth"):
        store.pair(7, 2, ["pair_gap"])


def test_a_store_is_pickled_as_its_path(store: stores.CueStore) -> None:
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    np.testing.assert_array_equal(copy.read("rgb", 3), store.read("rgb", 3))


def test_a_relative_path_is_pickled_as_absolute(store: stores.CueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(store.path).parent)
    packed = pickle.dumps(stores.open("cues.zarr"))
    monkeypatch.chdir("/")
    assert pickle.loads(packed).n_clips == store.n_clips  # noqa: S301


def test_a_failed_clip_cannot_be_read(store: stores.CueStore) -> None:
    with pytest.raises(StoreError, match=r"clip 5 of .* is failed; read one of"):
        store.read("rgb", 5)


def test_a_store_opened_by_a_relative_path_survives_a_change_of_directory(
    store: stores.CueStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened = stores.open("cues.zarr")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(opened.complete_clips()) == 9
    assert np.array_equal(opened.read("rgb", 3), store.read("rgb", 3))


def test_a_store_that_has_gone_says_so(store: stores.CueStore, tmp_path: Path) -> None:
    (tmp_path / "cues.zarr").rename(tmp_path / "moved.zarr")
    with pytest.raises(StoreError, match=r"the store .*cues\.zarr is gone"):
        store.complete_clips()


@pytest.mark.parametrize(
    ("index", "selected"),
    [
        (np.int64(1), 1),
        (np.array(2), 2),
        (-1, 3),
        (np.array([True, False, True, False]), [0, 2]),
        ([True, False, True, False], [0, 2]),
        (slice(1, 3), [1, 2]),
        (np.array([3, 0]), [3, 0]),
    ],
)
def test_indices_have_numpys_meaning(store: stores.CueStore, index: object, selected: object) -> None:
    for name in ("rgb", "frame_index"):
        assert np.array_equal(store.read(name, np.int64(2), index), store.read(name, 2)[selected])
    assert store.pair(np.array(2), np.int64(1)).frames == store.pair(2, 1).frames
    assert store.clip_id(np.int64(2)) == store.clip_id(2)


@pytest.mark.parametrize("index", [True, 4, [True, False], np.array([9])])
def test_other_indices_are_refused(store: stores.CueStore, index: object) -> None:
    for name in ("rgb", "frame_index"):
        with pytest.raises(StoreError, match=f"expected indices of the 4 frames of {name}"):
            store.read(name, 2, index)


@pytest.mark.parametrize("number", [True, np.array([1, 2]), 99])
def test_what_is_no_number_is_refused(store: stores.CueStore, number: object) -> None:
    for refused in (lambda: store.read("rgb", number), lambda: store.clip_id(number), lambda: store.pair(2, number)):
        with pytest.raises(StoreError, match=r"expected the number of one|expected a (clip|pair) from 0 to"):
            refused()


def test_a_pair_before_the_first_is_refused(store: stores.CueStore) -> None:
    """Its flow would be that of the clip before."""
    with pytest.raises(StoreError, match="expected a pair from 0 to 2, found -1"):
        store.pair(2, -1)
