"""Stage one's efficiency: the time of the networks alone on the same frames, over the time of the whole build.

python -m tests.benchmarks.stage_one [--clips 12]

With RAFT small and ViT-Ti, the encoder on images of the cue size and of 480 px (476 px would be no whole patches);
weights are random, which costs the same time. The networks are timed before and after the build, in the same batches.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch

import stores
from lila_cues.config import BuildConfig, RunOptions
from lila_cues.console import out
from lila_cues.pipeline import build, setup
from lila_cues.pipeline.frames import ClipFrames
from lila_cues.pipeline.task import Worker
from tests.benchmarks import figures
from tests.benchmarks.clips import write_video
from tests.benchmarks.figures import Bar, Quantity

EFFICIENCY = Quantity("stage one: time of the networks alone, of the whole build", "×", Bar("at least", 0.95))
SPEED = Quantity("stage one: speed of the build", "frames/s")
READING = Quantity("stage one: CPU time of reading 16 frames of a clip, of decoding it", "×", Bar("at most", 1.5))
FIGURES = (EFFICIENCY, SPEED, READING)
ROUND = 2  # clips
NETWORKS = ("encoder", "depth", "flow")
ENCODER_SIZES = (224, 480)  # px
CHOICE = {"encoder": "vit_tiny_patch16_224", "depth": "tiny", "flow": "raft_small"}


@dataclass(frozen=True)
class Measured:
    """Seconds of the networks alone and of the build, and of each part of it."""

    clips: int
    frames: int
    alone: float
    whole: float
    parts: dict[str, float]
    reading: float  # of the CPU time of decoding every frame of the same clips

    @property
    def efficiency(self) -> float:
        return self.alone / self.whole


def networks_alone(worker: Worker, taken: list[ClipFrames]) -> float:
    """Seconds of the networks on frames that are in memory."""
    worker.timer.take()
    for frames in taken:
        worker.extractor.predict([frames])
    parts = worker.timer.take()
    return sum(parts[part] for part in NETWORKS)


def decode(path: Path) -> None:
    """Decode every frame, in one thread, and look at none."""
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass


def cpu_seconds(work: Callable[[], object]) -> float:
    """The least of three runs."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(folder: Path, clips: int, encoder_size: int) -> Measured:
    """One build of `clips` clips, between two rounds of the networks alone."""
    names = [f"{index:03d}.mp4" for index in range(clips)]
    for index, name in enumerate(names):
        write_video(folder / name, index)
    weights = {"encoder_weights": "random", "depth_weights": "random", "flow_weights": "random"}
    given = {"dataset": "videos", "profile": "small", "decoder": "pyav", "encoder_size": encoder_size}
    given |= weights | CHOICE
    config, run = BuildConfig.resolve(given), RunOptions(folder, device="cpu")
    networks = setup.load_networks(config, run.device)
    spec = build.store_spec(config, networks.encoder.patch_size, networks.encoder.width)
    store = stores.create(folder / "s.zarr", spec, names, {}, {})
    parts: dict[str, float] = {}
    with Worker(config, run, networks) as worker:
        taken = [worker.load_clip(name) for name in names[:ROUND]]
        reading = cpu_seconds(lambda: worker.dataset.read(names[0], lambda n: range(0, n, n // 16), np.asarray))
        reading /= cpu_seconds(lambda: decode(folder / names[0]))
        networks_alone(worker, taken[:1])
        rounds = [networks_alone(worker, taken)]
        start = time.perf_counter()
        for report in build.build_local(store, worker, store.pending_tasks()):
            parts = {part: parts.get(part, 0.0) + seconds for part, seconds in report.seconds.items()}
        whole = time.perf_counter() - start
        rounds.append(networks_alone(worker, taken))
    return Measured(clips, clips * config.frames, sum(rounds) / 2 * clips / len(taken), whole, parts, reading)


def main() -> None:
    from rich.table import Table

    parser = figures.parser(__doc__)
    parser.add_argument("--clips", type=int, default=12)
    options = parser.parse_args()
    measured = []
    for side in ENCODER_SIZES:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), options.clips, side)
        settings = f"ViT-Ti at {side} px, RAFT small, {found.clips} clips"
        title = f"Stage one, {torch.get_num_threads()} threads: {settings}"
        table = Table("", "s", "of the build", title=title, title_justify="left")
        for name, seconds in {"networks alone": found.alone, "whole build": found.whole, **found.parts}.items():
            table.add_row(name, f"{seconds:.1f}", f"{seconds / found.whole:.0%}")
        out.print(table)
        measured += [EFFICIENCY.figure(found.efficiency, settings), SPEED.figure(found.frames / found.whole, settings)]
    out.print(f"reading 16 frames of a clip takes {found.reading:.2f} times the CPU time of decoding it")
    measured.append(READING.figure(found.reading, "8 s of 360p"))
    figures.hand_back(options.figures, FIGURES, measured)


if __name__ == "__main__":
    main()
