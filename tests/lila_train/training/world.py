"""A small store whose cues are a known function of the image, without any network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import stores
from lila_cues.networks import FrozenEncoder, load_encoder
from stores.shards import encode_clip, stored_values

GEOMETRY = stores.Geometry(
    frames=4, pairs=4, base=(64, 64), cue=(32, 32), features=(16, 16), encoder=(4, 4), channels=6
)
ENCODER = "vit_tiny_patch16_224"


def encoder() -> FrozenEncoder:
    return load_encoder(ENCODER, "random:3")


def clip_cues(seed: int, gap: int = 1) -> stores.ClipCues:
    """A texture whose depth is its brightness, its features its colors; the camera moves a cue pixel per frame."""
    g, rng = GEOMETRY, np.random.default_rng(seed)
    rgb = np.repeat(rng.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2), g.frames, axis=0)
    rgb = np.stack([np.roll(frame, 2 * i, axis=1) for i, frame in enumerate(rgb)])
    depth = rgb.reshape(g.frames, 32, 2, 32, 2, 3).mean((2, 4, 5)).astype(np.float32) + 10
    flow = np.zeros((g.pairs, 2, *g.cue), np.float32)
    flow[:, 0] = np.array([1, 1, 1, 3], np.float32)[:, None, None]
    color = rgb.reshape(g.frames, 16, 4, 16, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1
    features = np.concatenate((color, 1 - np.abs(color)), axis=1)
    return stores.ClipCues(
        rgb=rgb,
        depth=depth,
        flow_forward=flow,
        flow_backward=-flow,
        features=features,
        features_raw=features[:, :, ::4, ::4],
        feature_channels=np.arange(g.channels),
        frame_index=np.arange(g.frames),
        frame_time=np.arange(g.frames) / 25,
        pair_frames=np.array([[0, 1], [1, 2], [2, 3], [0, 3]]),
        pair_gap=gap * np.array([1, 1, 1, 3]),
    )


def build(path: Path, clips: int = 5, gap: int = 1, tasks: int | None = None) -> stores.CueStore:
    """A store of that world, of which the first `tasks` tasks are complete; its encoder has random weights."""
    names = [f"clip-{i}" for i in range(clips)]
    provenance = {"networks": {"encoder": encoder().source.to_dict()}}
    store = stores.create(path, stores.StoreSpec(GEOMETRY), names, {"world": 1}, provenance)
    return fill(store, gap, tasks)


def fill(store: stores.CueStore, gap: int = 1, tasks: int | None = None) -> stores.CueStore:
    """Complete the pending tasks, at most `tasks` of them."""
    for task in list(store.pending_tasks())[:tasks]:
        with store.lock_task(task) as writer:
            assert writer is not None
            for clip in writer.pending():
                writer.add(
                    clip,
                    encode_clip(store.clip_id(clip), store.arrays, stored_values(store.arrays, clip_cues(clip, gap))),
                )
    return store
