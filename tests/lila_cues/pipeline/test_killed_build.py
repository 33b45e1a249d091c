"""The real build, from video files to a store, killed again and again: the store is that of an undisturbed build."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest

import stores
from lila_cues.pipeline import build
from lila_cues.pipeline.cues import ClipPredictions, CueExtractor
from lila_cues.pipeline.frames import ClipFrames
from lila_cues.pipeline.task import Worker
from stores import verify
from tests.lila_cues import barcodes, small_networks
from tests.lila_cues.barcodes import Clip

CLIPS, SHARD, KILLS = 120, 4, 30


def build_logged(videos: Path, path: Path, log: Path) -> None:
    """Build what is pending; a line in `log` for each clip that the networks compute."""
    predict, line = CueExtractor.predict, os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def logged(extractor: CueExtractor, clips: Sequence[ClipFrames]) -> list[ClipPredictions]:
        os.write(line, "".join(f"{frames.clip_id}\n" for frames in clips).encode())
        return predict(extractor, clips)

    CueExtractor.predict = logged  # type: ignore[method-assign]
    store = stores.open(path)
    os.write(line, b"started\n")
    with Worker(small_networks.CONFIG, small_networks.run_options(videos), small_networks.networks(), 2) as worker:
        for _ in build.build_local(store, worker, store.pending_tasks()):
            pass


def make_store(path: Path) -> stores.CueStore:
    clips = [f"{index:03d}.mp4" for index in range(CLIPS)]
    return stores.create(path, stores.StoreSpec(small_networks.GEOMETRY, SHARD), clips, {}, {})


def complete_names(store: stores.CueStore) -> set[str]:
    return {store.clip_id(clip) for clip in store.complete_clips().tolist()}


@pytest.mark.slow
def test_a_build_that_is_killed_thirty_times(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    originals = [
        barcodes.write(tmp_path / f"{index}.mp4", Clip(frames=20 + index, size=(72, 96))) for index in range(5)
    ]
    for index in range(CLIPS):
        (videos / f"{index:03d}.mp4").symlink_to(originals[index % len(originals)])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.lila_cues.pipeline.test_killed_build"])
    calm, store = make_store(tmp_path / "calm.zarr"), make_store(tmp_path / "killed.zarr")

    def start(store: stores.CueStore, log: Path) -> ForkServerProcess:
        builder = context.Process(target=build_logged, args=(videos, Path(store.path), log))
        builder.start()
        while not log.exists() and builder.is_alive():
            time.sleep(0.002)
        return builder

    begun = time.perf_counter()
    start(calm, tmp_path / "calm.log").join()
    seconds = time.perf_counter() - begun
    random, died_at_work = np.random.default_rng(3), 0
    for kill in range(KILLS):
        log, before = tmp_path / f"{kill}.log", complete_names(store)
        builder = start(store, log)
        time.sleep(random.uniform(0, 3 * seconds / KILLS + 0.2))
        died_at_work += builder.is_alive()
        builder.kill()
        builder.join()
        assert before.isdisjoint(log.read_text().split()), "a complete clip was computed again"
        assert before <= complete_names(store)
        assert not [f for task in range(store.n_tasks) for f in verify.check_task(store, task)]
    assert died_at_work > KILLS / 3
    start(store, tmp_path / "last.log").join()
    for path in Path(calm.path).glob("*/c.*"):
        if path.parent.name != "status":
            assert path.read_bytes() == (Path(store.path) / path.parent.name / path.name).read_bytes()
