"""A store as dask arrays and an xarray dataset: decoded, lazy, chunked along shards, NaN where no clip is complete."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from stores.encodings import FixedPoint, PerMapInt8, missing_value
from stores.ledger import COMPLETE

if TYPE_CHECKING:
    from stores.store import CueStore

_CHUNK_BYTES = 128 * 2**20  # decoded; a larger shard is split into equal runs of clips


def dask_array(store: CueStore, name: str) -> Any:
    """Return the array `name` as dask.array.Array."""
    lazy = LazyArray(store, name)
    shard_clips, clip_bytes = store.spec.shard_clips, math.prod(lazy.shape[1:]) * lazy.dtype.itemsize
    divisors = [clips for clips in range(1, shard_clips + 1) if shard_clips % clips == 0]
    clips = max([clips for clips in divisors if clips * clip_bytes <= _CHUNK_BYTES], default=1)
    meta = np.empty((0,) * lazy.ndim, lazy.dtype)
    return dask.array.from_array(
        lazy, chunks=(clips, *lazy.shape[1:]), name=False, asarray=False, fancy=False, meta=meta
    )


def dataset(store: CueStore) -> xarray.Dataset:
    """Return all arrays, decoded (`xarray.open_zarr` leaves features in units of their scales), and names as `clip`."""
    variables = {
        name: (("clip", *spec.dimensions), dask_array(store, name), spec.attributes)
        for name, spec in store.arrays.items()
        if not name.endswith("_scale")
    }
    variables["status"] = (("clip",), store.statuses(), {})
    names = xarray.Coordinates.from_xindex(ClipIndex(store.clips.encoded))
    return xarray.Dataset(variables, names, {"path": store.path})


class _Names(BackendArray):
    """Clip names as text, decoded when they are read."""

    def __init__(self, encoded: np.ndarray) -> None:
        self.encoded, self.shape, self.dtype = encoded, encoded.shape, np.dtype(f"U{encoded.itemsize}")

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, lambda index: np.strings.decode(self.encoded[index])
        )


class ClipIndex(xarray.Index):
    """Selection of clips by name, without an index of all names in memory."""

    def __init__(self, encoded: np.ndarray) -> None:
        self.encoded = encoded

    def create_variables(self, variables: Mapping[Any, xarray.Variable] | None = None) -> dict[Any, Any]:
        return {"clip": xarray.Variable("clip", indexing.LazilyIndexedArray(_Names(self.encoded)))}

    def sel(self, labels: dict[Any, Any], method: Any = None, tolerance: Any = None) -> indexing.IndexSelResult:
        """Return the positions of one name or several; KeyError for one that is not there."""
        ((dimension, label),) = labels.items()
        positions = []
        for name in np.atleast_1d(np.asarray(label)).tolist():
            found = np.flatnonzero(self.encoded == str(name).encode())
            if not len(found):
                raise KeyError(f"no clip is named {name!r}")
            positions.append(int(found[0]))
        return indexing.IndexSelResult({dimension: positions[0] if np.ndim(label) == 0 else np.array(positions)})

    def isel(self, indexers: Mapping[Any, Any]) -> ClipIndex | None:
        (index,) = indexers.values()
        return None if np.ndim(index) == 0 and not isinstance(index, slice) else ClipIndex(self.encoded[index])

    def equals(self, other: xarray.Index, **options: Any) -> bool:
        return isinstance(other, ClipIndex) and np.array_equal(self.encoded, other.encoded)


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
