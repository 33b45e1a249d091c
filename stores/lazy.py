"""A store as dask arrays and an xarray dataset: decoded, lazy, chunked along shards, NaN where no clip is complete."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from stores.encodings import FixedPoint, PerMapInt8, missing_value
from stores.ledger import COMPLETE

if TYPE_CHECKING:
    from stores.store import CueStore

_CHUNK_BYTES = 128 * 2**20  # decoded; a larger shard is split into equal runs of clips


def dask_array(store: CueStore, name: str) -> Any:
    """Return the array `name` as dask.array.Array."""
    import dask.array

    lazy = LazyArray(store, name)
    shard_clips, clip_bytes = store.spec.shard_clips, math.prod(lazy.shape[1:]) * lazy.dtype.itemsize
    divisors = [clips for clips in range(1, shard_clips + 1) if shard_clips % clips == 0]
    clips = max([clips for clips in divisors if clips * clip_bytes <= _CHUNK_BYTES], default=1)
    meta = np.empty((0,) * lazy.ndim, lazy.dtype)
    return dask.array.from_array(
        lazy, chunks=(clips, *lazy.shape[1:]), name=False, asarray=False, fancy=False, meta=meta
    )


def dataset(store: CueStore) -> Any:
    """Return all arrays as xarray.Dataset, decoded (`xarray.open_zarr` leaves features in units of their scales)."""
    import xarray

    variables = {
        name: (("clip", *spec.dimensions), dask_array(store, name), spec.attributes)
        for name, spec in store.arrays.items()
        if not name.endswith("_scale")
    }
    return xarray.Dataset({**variables, "status": ("clip", store.statuses())}, attrs={"path": store.path})


class LazyArray:
    """One array over all clips, with the attributes and the indexing that dask needs."""

    def __init__(self, store: CueStore, name: str) -> None:
        spec = store.arrays[name]
        self._store = store
        self._name = name
        self._complete = store.statuses() == COMPLETE
        quantized = isinstance(spec.encoding, PerMapInt8 | FixedPoint) or spec.dtype == np.float16
        self.dtype = np.dtype(np.float32) if quantized else spec.dtype  # that of `CueStore.read`
        self._missing = np.nan if self.dtype.kind == "f" else missing_value(spec.encoding)
        self.shape = (store.n_clips, *spec.shape)
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        clips = range(*index[0].indices(self.shape[0]))
        values = np.full((len(clips), *self.shape[1:]), self._missing, self.dtype)
        for position, clip in enumerate(clips):
            if self._complete[clip]:
                values[position] = self._store.read(self._name, clip)
        return values[(slice(None), *index[1:])]
