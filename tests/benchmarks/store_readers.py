"""Ways to read one pair of all cues: ours, other readers of the same files, and other formats with the same content.

Each reader is made from the folder that `write_all` filled, and gives a dict of the stored arrays of a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import stores
from stores.cues import PairCues
from stores.shards import encode_clip, stored_values
from stores.spec import RGB_CODECS
from stores.spec import STANDARD_CUES as CUES
from stores.store import CueStore

Arrays = dict[str, np.ndarray]
Reader = Callable[[int, int], Arrays]
STORE, JPEG, MAPPED, HDF5, LITDATA = "cues.zarr", "jpeg.zarr", "mapped", "cues.h5", "litdata"
SCALES = ("features_scale", "features_raw_scale")


def ours(folder: Path, store_name: str = STORE) -> Reader:
    """The store's own reader, arrays as stored."""
    store = stores.open(folder / store_name)
    return lambda clip, pair: as_arrays(store.stored_pair(clip, pair))


def ours_decoded(folder: Path) -> Reader:
    """The same, decoded to float32."""
    store = stores.open(folder / STORE)
    return lambda clip, pair: as_arrays(store.pair(clip, pair))


def zarr_python(folder: Path) -> Reader:
    """zarr-python on the same files."""
    import zarr

    group = zarr.open_group(str(folder / STORE), mode="r")
    arrays: dict[str, Any] = {name: group[name] for name in group.array_keys()}
    return lambda clip, pair: _indexed(arrays, clip, pair)


def zarrs(folder: Path) -> Reader:
    """zarr-python with the codec pipeline of zarrs."""
    import zarr
    import zarrs  # noqa: F401 registers the pipeline

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        group = zarr.open_group(str(folder / STORE), mode="r")
        arrays: dict[str, Any] = {name: group[name] for name in group.array_keys()}
    return lambda clip, pair: _indexed(arrays, clip, pair)


def tensorstore(folder: Path) -> Reader:
    """tensorstore on the same files; all reads of a pair are under way together."""
    import tensorstore

    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})
    arrays = {
        name: tensorstore.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / STORE / name)}}, context=context
        ).result()
        for name in (*CUES, *SCALES, "feature_channels", "pair_frames", "pair_gap")
    }

    def read(clip: int, pair: int) -> Arrays:
        frames = arrays["pair_frames"][clip, pair].read().result()
        asked = {"pair_gap": arrays["pair_gap"][clip, pair], "feature_channels": arrays["feature_channels"][clip]}
        for name in (*CUES, *SCALES):
            asked[name] = arrays[name][clip, pair] if name.startswith("flow") else arrays[name][clip, frames]
        pending = {name: view.read() for name, view in asked.items()}
        return {name: np.asarray(future.result()) for name, future in pending.items()}

    return read


def memory_map(folder: Path) -> Reader:
    """Uncompressed .npy files, mapped; no checksums."""
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in (folder / MAPPED).glob("*.npy")}
    return lambda clip, pair: _indexed(arrays, clip, pair)


def h5py(folder: Path) -> Reader:
    """HDF5, one chunk per frame or pair, shuffle, lzf and fletcher32."""
    import h5py

    arrays = dict(h5py.File(folder / HDF5, "r").items())
    return lambda clip, pair: _indexed(arrays, clip, pair)


def litdata(folder: Path) -> Reader:
    """LitData: one uncompressed sample per pair, so that frames shared by pairs are stored again; no checksums."""
    import litdata

    dataset = litdata.StreamingDataset(str(folder / LITDATA))
    pairs = len(dataset) // stores.open(folder / STORE).n_clips

    def read(clip: int, pair: int) -> Arrays:
        sample: Arrays = dataset[clip * pairs + pair]
        return sample

    return read


READERS: dict[str, Callable[[Path], Reader]] = {
    "ours": ours,
    "ours, decoded": ours_decoded,
    "ours, JPEG": partial(ours, store_name=JPEG),
    "zarr-python": zarr_python,
    "zarrs": zarrs,
    "tensorstore": tensorstore,
    "memory map, raw": memory_map,
    "h5py, lzf": h5py,
    "LitData, raw": litdata,
}


def write_all(folder: Path, n_clips: int, clip: Callable[[int], Any], spec: stores.StoreSpec) -> None:
    """The store, one with JPEG frames, and the same content in the other formats."""
    for name, rgb in ((JPEG, RGB_CODECS["jpeg"]), (STORE, spec.rgb)):
        names = [f"clip-{number}" for number in range(n_clips)]
        store = stores.create(folder / name, replace(spec, rgb=rgb), names, {}, {})
        for task in store.pending_tasks():
            with store.lock_task(task) as writer:
                assert writer is not None
                for number in writer.pending():
                    values = stored_values(store.arrays, clip(number))
                    writer.add(number, encode_clip(store.clip_id(number), store.arrays, values))
    _write_others(folder, store)


def _write_others(folder: Path, store: CueStore) -> None:
    import h5py
    from numpy.lib.format import open_memmap

    (folder / MAPPED).mkdir()
    with h5py.File(folder / HDF5, "w") as file:
        for name, spec in store.arrays.items():
            shape = (store.n_clips, *spec.shape)
            mapped = open_memmap(folder / MAPPED / f"{name}.npy", "w+", spec.dtype, shape)
            chunks = file.create_dataset(
                name,
                shape,
                spec.dtype,
                chunks=(1, 1, *spec.shape[1:]) if spec.split else (1, *spec.shape),
                compression="lzf",
                shuffle=True,
                fletcher32=True,
            )
            for clip in range(store.n_clips):
                parts = store._reader.read(name, clip, range(spec.clip_chunks))
                mapped[clip] = parts if spec.split else parts[0]
                chunks[clip] = mapped[clip]
    _write_litdata(folder, store)


def _write_litdata(folder: Path, store: CueStore) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder / LITDATA), chunk_bytes="64MB")
    pairs = store.spec.geometry.pairs
    for index in range(store.n_clips * pairs):
        writer[index] = as_arrays(store.stored_pair(*divmod(index, pairs)))
    writer.done()
    writer.merge()


def as_arrays(pair: PairCues) -> Arrays:
    """All that a pair has, but for where it is from."""
    names = (*CUES, *SCALES, "feature_channels")
    found = {name: getattr(pair, name) for name in names if getattr(pair, name) is not None}
    return {**found, "pair_gap": np.asarray(pair.gap)}


def _indexed(arrays: dict[str, Any], clip: int, pair: int) -> Arrays:
    """As numpy-like arrays are read: frame by frame, since not all of them take a list of frames well."""
    first, second = arrays["pair_frames"][clip, pair]
    found = {
        "pair_gap": np.asarray(arrays["pair_gap"][clip, pair]),
        "feature_channels": arrays["feature_channels"][clip],
    }
    for name in (*CUES, *SCALES):
        array = arrays[name]
        if name.startswith("flow"):
            found[name] = np.array(array[clip, pair])
        else:
            found[name] = np.stack([array[clip, first], array[clip, second]])
    return found
