"""`lila-train features` on a video against the model alone on the same frames, and memory against the length.

python -m tests.benchmarks.video_features [--weights FILE] [--video FILE] [--size 128] [--frames 300]

Without a video, one of 480p is made; without weights, the packaged encoder gets a random decoder.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from tests.benchmarks import figures
from tests.benchmarks.figures import Bar, Figure, Quantity
from tests.benchmarks.meter import status_mib

if TYPE_CHECKING:
    from lila_train.inference.compute import FeatureComputer

TIMES = Quantity("features of a video: time, of the model alone", "×", Bar("at most", 1.2))
# "Independent of its length", but for what an allocator rounds.
LENGTH = Quantity("features of a video: memory, of that for a quarter of the length", "×", Bar("at most", 1.1))
FIGURES = (TIMES, LENGTH)
HEIGHT, WIDTH = 480, 854


@dataclass(frozen=True)
class Case:
    """What to run, on how many frames, and which formats to write; no format is the model alone."""

    weights: Path
    video: Path
    size: int
    frames: int
    formats: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """Seconds on the clock, and of all threads together, from the first frame to the last file; the peak of memory."""

    seconds: float
    cpu: float
    peak_mib: float


def measure(case: Case) -> Measured:
    """Run one case in this process."""
    from lila_cues.inputs import list_inputs
    from lila_train import load
    from lila_train.inference.compute import FeatureComputer
    from lila_train.inference.config import FeatureConfig
    from lila_train.inference.feature_cache import FeatureCache
    from lila_train.inference.features import Extractor

    torch.set_num_threads(1)
    config = FeatureConfig(format=case.formats or ("pca",), size=case.size, max_frames=case.frames)
    compute = FeatureComputer(load(case.weights), config)
    if not case.formats:
        return _alone(compute, case)
    with tempfile.TemporaryDirectory() as folder:
        extractor = Extractor(compute, FeatureCache(Path(folder), config, {}))
        (medium,) = list_inputs([case.video])
        began, worked = time.perf_counter(), time.process_time()
        extractor.video(medium, lambda: None)
        return Measured(time.perf_counter() - began, time.process_time() - worked, status_mib("VmHWM"))


def _alone(compute: FeatureComputer, case: Case) -> Measured:
    """Only the model's own time, summed over the frames; decoding and resizing do not count."""
    from lila_cues.images import resize_short_side
    from lila_cues.video.reader import VideoFrames

    seconds = cpu = 0.0
    for frame in islice(VideoFrames(case.video), case.frames):
        picture = resize_short_side(frame, case.size)
        began, worked = time.perf_counter(), time.process_time()
        compute([picture])
        seconds += time.perf_counter() - began
        cpu += time.process_time() - worked
    return Measured(seconds, cpu, status_mib("VmHWM"))


def in_a_process(case: Case) -> Measured:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (case,))


def made_video(path: Path, frames: int) -> Path:
    """A texture that drifts, at 480p."""
    from lila_cues.video.writer import VideoWriter

    coarse = np.random.default_rng(0).integers(0, 256, (60, 107, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    with VideoWriter(path, Fraction(25)) as writer:
        for index in range(frames):
            writer.write(np.roll(picture, 3 * index, axis=1))
    return path


def main() -> None:
    """Print the table."""
    from rich.table import Table

    from lila_cues.console import out
    from tests.lila_train.inference.models import write_weights

    parser = figures.parser(__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--size", type=int, default=128, help="short side that features are computed at")
    parser.add_argument("--frames", type=int, default=300)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = chosen.video or made_video(Path(folder) / "made.mp4", chosen.frames)
        weights = chosen.weights or write_weights(Path(folder) / "weights.safetensors")
        base = in_a_process(Case(weights, video, chosen.size, chosen.frames, ()))
        title = f"{chosen.frames} frames of 480p at {chosen.size} px, one thread for the network"
        heads = ("seconds", "of the model alone", "CPU seconds", "of the model alone", "peak MiB")
        table = Table("", *heads, f"peak MiB of {chosen.frames // 4} frames", title=title)
        table.add_row("the model alone", f"{base.seconds:.1f}", "1", f"{base.cpu:.1f}", "1", f"{base.peak_mib:.0f}", "")
        found: list[Figure] = []
        for formats in (("pca",), ("npz", "pca"), ("zarr",)):
            whole = in_a_process(Case(weights, video, chosen.size, chosen.frames, formats))
            part = in_a_process(Case(weights, video, chosen.size, chosen.frames // 4, formats))
            wall = f"{whole.seconds:.1f}", f"{whole.seconds / base.seconds:.2f}"
            cpu = f"{whole.cpu:.1f}", f"{whole.cpu / base.cpu:.2f}"
            peaks = f"{whole.peak_mib:.0f}", f"{part.peak_mib:.0f}"
            table.add_row(" and ".join(formats), *wall, *cpu, *peaks)
            settings = f"{chosen.frames} frames of 480p at {chosen.size} px, as {' and '.join(formats)}"
            found += [
                TIMES.figure(whole.seconds / base.seconds, settings, f"CPU time {cpu[1]}"),
                LENGTH.figure(whole.peak_mib / part.peak_mib, settings),
            ]
        out.print(table)
    figures.hand_back(chosen.figures, FIGURES, found)


if __name__ == "__main__":
    main()
