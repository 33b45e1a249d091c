"""A folder of intact and damaged videos: the intact clips are complete, each damaged one has its reason."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

import stores
from lila_cues.datasets import open_dataset
from lila_cues.pipeline import build
from lila_cues.pipeline.task import Worker
from tests.lila_cues import barcodes, small_networks

START = 1500
"""Bytes of a file's head: damage to the encoder's notes in them harms no frame."""


def write_noise_video(path: Path, seed: int) -> Path:
    """A video of moving noise, with detail in every frame."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 128, 96, "yuv420p", 10
        for index in range(24):
            picture = np.roll(np.kron(noise, np.ones((16, 16, 1), np.uint8)), (index, 2 * index), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def truncated(good: bytes, draw: random.Random) -> bytes:
    return good[: draw.randrange(START, len(good) - 100)]


def flipped(good: bytes, draw: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(60):
        data[draw.randrange(START, len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def zeroed(good: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(START, len(good) - 4096)
    return good[:start] + bytes(4096) + good[start + 4096 :]


def text(good: bytes, draw: random.Random) -> bytes:
    return "".join(draw.choices("abcdefgh \n", k=5000)).encode()


def empty(good: bytes, draw: random.Random) -> bytes:
    return b""


DAMAGE: tuple[Callable[[bytes, random.Random], bytes], ...] = (truncated, flipped, zeroed, text, empty)


def damage(root: Path, count: int, sound: bytes) -> None:
    """`count` bad files, one in six of them with sound alone, between the good ones by name."""
    goods = [path.read_bytes() for path in sorted(root.glob("*.mp4"))]
    for index in range(count):
        draw = random.Random(index)
        kind = index % (len(DAMAGE) + 1)
        content = sound if kind == len(DAMAGE) else DAMAGE[kind](draw.choice(goods), draw)
        (root / f"{index % 20:02d}_bad_{index:03d}.mp4").write_bytes(content)


@pytest.mark.parametrize(("good", "bad"), [(20, 300)])
def test_good_clips_are_complete_and_bad_ones_have_their_reason(tmp_path: Path, good: int, bad: int) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    for index in range(good):
        write_noise_video(root / f"{index:02d}_good.mp4", index)
    damage(root, bad, barcodes.write_sound(tmp_path / "sound.mp4").read_bytes())
    config, options = small_networks.CONFIG, small_networks.run_options(root)
    clips = list(open_dataset("videos", root).clips())
    store = stores.create(tmp_path / "s.zarr", stores.StoreSpec(small_networks.GEOMETRY), clips, {}, {})
    with Worker(config, options, small_networks.networks(), 2) as worker:
        tally = build.Tally()
        for report in build.build_local(store, worker, store.pending_tasks()):
            tally.add(report)
    assert (tally.complete, tally.failed) == (good, bad)
    for clip, name in enumerate(clips):
        record = store.clip_record(clip)
        if "good" in name:
            assert record.status == stores.COMPLETE
            assert store.read("rgb", clip).std() > 10
        else:
            assert record.status == stores.FAILED
            assert f"{name}: expected a" in (record.reason or "")
