"""A store as dask arrays and an xarray dataset: decoded, lazy, chunked along shards, NaN where no clip is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stores.encodings import FixedPoint, PerMapInt8
from stores.ledger import COMPLETE
from stores.spec import ArraySpec

if TYPE_CHECKING:
    from stores.store import CueStore


_CHUNK_BYTES = 128 * 2**20  # decoded; a shard beyond it is cut into equal runs of clips


class LazyArray:
    """One array over all clips, by slices of clips, as the store is now; it reads through the fast reader."""

    def __init__(self, store: CueStore, name: str) -> None:
        spec = store.arrays[name]
        self._store = store
        self._name = name
        self._complete = store.statuses() == COMPLETE
        self.shape = (store.n_clips, *spec.shape)
        self.dtype = decoded_dtype(spec)
        self.ndim = len(self.shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """Clips index[0], then numpy's meaning of the rest."""
        clips = range(*index[0].indices(self.shape[0]))
        values = np.full(
            (len(clips), *self.shape[1:]), _nothing(self.dtype, self._store.arrays[self._name]), self.dtype
        )
        for position, clip in enumerate(clips):
            if self._complete[clip]:
                values[position] = self._store.read(self._name, clip)
        return values[(slice(None), *index[1:])]


def dask_array(store: CueStore, name: str) -> Any:
    """The array `name` as dask.array.Array."""
    import dask.array

    lazy = LazyArray(store, name)
    clips = _chunk_clips(store.spec.shard_clips, int(np.prod(lazy.shape[1:])) * lazy.dtype.itemsize)
    meta = np.empty((0,) * lazy.ndim, lazy.dtype)
    return dask.array.from_array(
        lazy, chunks=(clips, *lazy.shape[1:]), name=False, asarray=False, fancy=False, meta=meta
    )


def dataset(store: CueStore) -> Any:
    """All arrays as an xarray.Dataset, decoded (with `xarray.open_zarr` features stay in the units of their scales)."""
    import xarray

    names = [name for name in store.arrays if not name.endswith("_scale")]
    variables = {
        name: (("clip", *store.arrays[name].dimensions), dask_array(store, name), store.arrays[name].attributes)
        for name in names
    }
    return xarray.Dataset({**variables, "status": ("clip", store.statuses())}, attrs={"path": store.path})


def decoded_dtype(spec: ArraySpec) -> np.dtype[Any]:
    """Type of what `CueStore.read` gives."""
    quantised = isinstance(spec.encoding, PerMapInt8 | FixedPoint) or spec.dtype == np.float16
    return np.dtype(np.float32) if quantised else spec.dtype


def _chunk_clips(shard_clips: int, clip_bytes: int) -> int:
    """The most clips that divide a shard and stay within `_CHUNK_BYTES`; at least one."""
    divisors = [clips for clips in range(1, shard_clips + 1) if shard_clips % clips == 0]
    return max([clips for clips in divisors if clips * clip_bytes <= _CHUNK_BYTES], default=1)


def _nothing(dtype: np.dtype[Any], spec: ArraySpec) -> float | int:
    return np.nan if dtype.kind == "f" else spec.encoding.missing
