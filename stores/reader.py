"""The fast reader: a shard's index once, then a read by position and a decompression per chunk, checksums verified.

It works in the calling thread, starts none, and holds no lock, so it is safe after a fork.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from stores.arrays import ArraySpec
from stores.codecs import ChecksumError, decode_into
from stores.errors import StoreError
from stores.files import Blob, Files
from stores.shards import NO_CHUNK, index_bytes, parse_index

_OPEN_SHARDS = 128  # kept open per thread


class ShardReader:
    """Inner chunks of complete clips, as stored."""

    def __init__(self, files: Files, arrays: Mapping[str, ArraySpec], shard_clips: int) -> None:
        self._files = files
        self.arrays = arrays
        self._shard_clips = shard_clips
        self._local = threading.local()

    def read(self, name: str, clip: int, parts: Sequence[int]) -> np.ndarray:
        """Inner chunks `parts` of a clip (frames or pairs; [0] where the chunk is all of the clip), stacked first."""
        spec = self.arrays[name]
        task, position = divmod(clip, self._shard_clips)
        blob, index = self._shard(spec, task)
        first = position * spec.clip_chunks
        entries = [index[first + part] for part in parts]
        out = np.empty((len(parts), *(spec.shape[1:] if spec.split else spec.shape)), spec.dtype)
        if any(int(entry[0]) == NO_CHUNK for entry in entries):
            raise _damaged(self._files, spec, task, "it lacks a chunk of a complete clip")
        for payload, chunk in zip(blob.read([(int(o), int(n)) for o, n in entries]), out, strict=True):
            try:
                decode_into(np.frombuffer(payload, np.uint8), chunk)
            except ChecksumError as error:
                raise _damaged(self._files, spec, task, f"a chunk of clip {clip}: {error}") from error
        return out

    def _cache(self) -> OrderedDict[tuple[str, int], tuple[Blob, np.ndarray]]:
        if not hasattr(self._local, "shards"):
            self._local.shards = OrderedDict()
        shards: OrderedDict[tuple[str, int], tuple[Blob, np.ndarray]] = self._local.shards
        return shards

    def _shard(self, spec: ArraySpec, task: int) -> tuple[Blob, np.ndarray]:
        cache, at = self._cache(), (spec.name, task)
        if at in cache:
            cache.move_to_end(at)
            return cache[at]
        cache[at] = self._open(spec, task)
        if len(cache) > _OPEN_SHARDS:
            cache.popitem(last=False)
        return cache[at]

    def _open(self, spec: ArraySpec, task: int) -> tuple[Blob, np.ndarray]:
        entries = self._shard_clips * spec.clip_chunks
        try:
            blob, tail = self._files.open(spec.shard_key(task), index_bytes(entries))
            return blob, parse_index(tail, blob.size, entries)
        except FileNotFoundError as error:
            raise _damaged(self._files, spec, task, "it is missing") from error
        except ChecksumError as error:
            raise _damaged(self._files, spec, task, str(error)) from error


def _damaged(files: Files, spec: ArraySpec, task: int, what: str) -> StoreError:
    return StoreError(
        f"the shard {files.location}/{spec.shard_key(task)} is damaged ({what}); "
        "run `lila-cues verify` and then `lila-cues repair` on the store, and build again"
    )
