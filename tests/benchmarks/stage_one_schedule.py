"""Stage one's schedule: clips per second of a build whose parts sleep, of the slowest part alone.

python -m tests.benchmarks.stage_one_schedule [--tasks 40] [--speed 2]

The stream, the store and its files are real; decoding, networks, encoding and publishing sleep as long as they take on
a machine with one GPU and 18 cores for profile small, divided by `--speed`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import stores
from lila_cues.config import BuildConfig, RunOptions
from lila_cues.pipeline import build
from lila_cues.pipeline.cues import ClipPredictions, ClipValues
from lila_cues.pipeline.frames import ClipFrames
from lila_cues.pipeline.setup import Networks
from lila_cues.pipeline.task import Worker
from stores.shards import EncodedClip
from stores.writer import TaskWriter
from tests.benchmarks import figures
from tests.benchmarks.figures import Bar, Quantity
from tests.lila_cues import barcodes, small_networks

EFFICIENCY = Quantity("stage one: clips/s of the schedule, of its slowest part", "×", Bar("at least", 0.9))
FIGURES = (EFFICIENCY,)
SHARD_CLIPS = 16
THREADS = 18


DECODERS = 2 * THREADS // 3
DECODE, NETWORKS, ENCODE, PUBLISH = 0.51, 0.040, 0.28, 0.15  # s of a clip; of a task
SLOWEST = min(DECODERS / DECODE, 1 / NETWORKS, (THREADS - DECODERS) / ENCODE, SHARD_CLIPS / PUBLISH)  # clips/s


class SleepingWorker(Worker):
    """Its parts return the results of one small clip, after a time."""

    def __init__(self, config: BuildConfig, options: RunOptions, networks: Networks, speed: float) -> None:
        super().__init__(config, options, networks, THREADS)
        self.speed = speed
        self.frames = super().load_clip("0.mp4")
        self.encoded: EncodedClip | str | None = None

    def load_clip(self, clip_id: str) -> ClipFrames:
        time.sleep(DECODE / self.speed)
        return replace(self.frames, clip_id=clip_id)

    def predict(self, store: stores.CueStore, clips: Sequence[ClipFrames]) -> Sequence[ClipPredictions | ClipValues]:
        time.sleep(NETWORKS * len(clips) / self.speed)
        return super().predict(store, clips)

    def encode(self, store: stores.CueStore, predicted: ClipPredictions | ClipValues) -> EncodedClip | str:
        time.sleep(ENCODE / self.speed)
        self.encoded = self.encoded or super().encode(store, predicted)
        return self.encoded


def measure(folder: Path, tasks: int, speed: float) -> float:
    """Return clips per second of a build, of those of its slowest part."""
    barcodes.write(folder / "0.mp4", barcodes.Clip(frames=20, size=(72, 96)))
    names = [f"{index}.mp4" for index in range(tasks * SHARD_CLIPS)]
    store = stores.create(folder / "s.zarr", stores.StoreSpec(small_networks.GEOMETRY, SHARD_CLIPS), names, {}, {})
    publish = TaskWriter.publish

    def slow(writer: TaskWriter) -> None:
        time.sleep(PUBLISH / speed)
        publish(writer)

    TaskWriter.publish = slow  # type: ignore[method-assign]
    config, options = small_networks.CONFIG, small_networks.run_options(folder)
    with SleepingWorker(config, options, small_networks.networks(), speed) as worker:
        start = time.perf_counter()
        for report in build.build_local(store, worker, range(store.n_tasks)):
            assert report.complete == SHARD_CLIPS
        return len(names) / (time.perf_counter() - start) / speed / SLOWEST


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--speed", type=float, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.tasks, options.speed)
    settings = f"{options.tasks} tasks of {SHARD_CLIPS} clips, {THREADS} threads"
    figures.hand_back(options.figures, FIGURES, [EFFICIENCY.figure(found, settings)])


if __name__ == "__main__":
    main()
