"""Small stores with known cues: each clip's values are a function of its number."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import stores
from stores import ClipCues, CueStore, Geometry, StoreSpec
from stores.shards import encode_clip, stored_values
from stores.writer import TaskWriter

Damage = Callable[[Path], None]

GEOMETRY = Geometry(frames=4, pairs=3, base=(12, 16), cue=(8, 10), features=(4, 5), encoder=(2, 3), channels=6)
SPEC = StoreSpec(GEOMETRY, shard_clips=4)
SETTINGS = {"profile": {"name": "tiny", "encoder": "tiny"}, "seed": 0}


def names(n_clips: int) -> list[str]:
    """Clip names with non-ASCII letters among them."""
    return [f"class é/clip_{clip:05d}.mp4" for clip in range(n_clips)]


def cues(clip: int, geometry: Geometry = GEOMETRY) -> ClipCues:
    """Cues of a clip; a few flow and depth values are missing."""
    g, random = geometry, np.random.Generator(np.random.Philox(key=clip))
    flow = random.normal(0, 3, (2, g.pairs, 2, *g.cue)).astype(np.float32)
    flow[:, 0, :, 0, 0] = np.nan
    depth = random.gamma(2, 10, (g.frames, *g.cue)).astype(np.float32)
    depth[0, 1, 1] = np.nan
    start = random.integers(0, g.frames - 1, g.pairs)
    return ClipCues(
        rgb=random.integers(0, 256, (g.frames, *g.base, 3), np.uint8),
        depth=depth,
        flow_forward=flow[0],
        flow_backward=flow[1],
        features=random.normal(0, 2, (g.frames, g.channels, *g.features)).astype(np.float32),
        features_raw=random.normal(0, 2, (g.frames, g.channels, *g.encoder)).astype(np.float32),
        feature_channels=random.permuted(np.arange(384))[: g.channels],
        frame_index=np.arange(g.frames) * 3 + clip,
        frame_time=(np.arange(g.frames) * 3 + clip) / 25,
        pair_frames=np.stack([start, start + 1], 1),
        pair_gap=np.full(g.pairs, 3),
    )


def add(store: CueStore, writer: TaskWriter, clip: int, values: ClipCues) -> None:
    """Encode a clip and add it."""
    writer.add(clip, encode_clip(store.clip_id(clip), store.arrays, stored_values(store.arrays, values)))


def create(path: Path, n_clips: int, spec: StoreSpec = SPEC, settings: dict[str, Any] = SETTINGS) -> CueStore:
    """An empty store."""
    return stores.create(path, spec, names(n_clips), settings, {"made": "for a test"})


def fill(
    store: CueStore, tasks: Iterable[int] | None = None, failing: Iterable[int] = (), only_failed: bool = False
) -> int:
    """Build the pending tasks (or those given); return the number of clips computed."""
    computed, failures = 0, set(failing)
    for task in list(store.pending_tasks(only_failed)) if tasks is None else tasks:
        with store.lock_task(task, only_failed) as writer:
            for clip in [] if writer is None else writer.pending():
                computed += 1
                if clip in failures:
                    writer.fail(clip, f"clip {clip} cannot be decoded")
                else:
                    add(store, writer, clip, cues(clip, store.spec.geometry))
    return computed


def put_in_place(kind: str, path: Path) -> None:
    """Put something in place of a file; opening some of it would block."""
    path.unlink(missing_ok=True)
    match kind:
        case "folder":
            path.mkdir()
            (path / "notes.txt").write_text("of somebody")
        case "FIFO":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(path.parent):  # whose paths are short
                bound.bind(path.name)
        case "loop of links":
            path.symlink_to(path.name)


def flip(path: Path, bit: int | None = None) -> None:
    """Flip a bit of a file, by default one in its middle."""
    data = bytearray(path.read_bytes())
    bit = 4 * len(data) + 1 if bit is None else bit
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    """Leave a share of a file."""
    os.truncate(path, int(path.stat().st_size * share))


TO_A_FILE: dict[str, Damage] = {
    "a flipped bit": flip,
    "nothing left": lambda path: cut(path, 0),
    "half of it left": lambda path: cut(path, 0.5),
    "deleted": Path.unlink,
    **{
        f"a {kind} in its place": lambda path, kind=kind: put_in_place(kind, path)
        for kind in ("folder", "FIFO", "socket", "loop of links")
    },  # type: ignore[misc]
}
"""What can happen to a file."""
