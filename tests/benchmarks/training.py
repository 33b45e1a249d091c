"""A training step from the store against the same step with its cues computed online, and the loader's share of a step.

python -m tests.benchmarks.training [--device cpu] [--rounds 5] [--depth NAME]

On a CPU with ViT-Ti, RAFT small and the tiny depth network, or another; on a GPU with ViT-S/14, RAFT large and Depth
Anything V2 Large. Weights are random where they would be fetched, which costs the same time. Steps of all ways take
turns; the figures are medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import stores
from lila_cues.config import BuildConfig
from lila_cues.config import RunOptions as BuildOptions
from lila_cues.console import out
from lila_cues.pipeline import build, setup
from lila_cues.pipeline.task import Worker
from lila_train.training.config import RunOptions, TrainConfig, find_recipe
from lila_train.training.data import PairBatch
from lila_train.training.distributed import Rank
from lila_train.training.run_dir import RunDir
from lila_train.training.trainer import Trainer, encoder_of_store
from tests.benchmarks import figures
from tests.benchmarks.figures import Bar, Quantity
from tests.benchmarks.online_cues import OnlineTrainer
from tests.benchmarks.stage_one import film

CLIPS = 2
CPU_NETWORKS = {"encoder": "vit_tiny_patch16_224", "depth": "tiny", "flow": "raft_small", "flow_weights": "random"}
GPU_NETWORKS = {"depth": "depth_anything_v2_large", "depth_weights": "random", "flow_weights": "random"}
LOADERS, STEPS_AHEAD = 2, 12
SLOWER = {
    kind: {way: Quantity(f"{name}, of a step from the store", "×", Bar("at least", bar)) for way, name, bar in rows}
    for kind, rows in {
        "cpu": [("online", "a training step with its cues computed online", 2.5)],
        "cuda": [
            ("online", "a training step with its cues computed online", 3.0),
            ("reference", "a training step with the reference's settings (float32, online)", 10.0),
        ],
    }.items()
}
WAITING = Quantity("training: time that a step waits for its batch", "%", Bar("below", 5))
FIGURES = {kind: (*slower.values(), WAITING) for kind, slower in SLOWER.items()}


@dataclass(frozen=True)
class Way:
    """A way to carry out the same step."""

    name: str
    settings: TrainConfig
    online: bool = False
    compiled: bool = False

    def trainer(self, store: stores.CueStore, folder: Path, device: torch.device, processes: int = 0) -> Trainer:
        options = RunOptions(compile=self.compiled, num_workers=processes)
        encoder = encoder_of_store(store, None, device)
        run_dir = RunDir.open(folder, self.settings, store)
        kind = OnlineTrainer if self.online else Trainer
        return kind(store, encoder, self.settings, run_dir, Rank(device=device), options)


def ways(device: torch.device) -> list[Way]:
    """What is compared; the first is ours."""
    if device.type == "cpu":
        settings = find_recipe("demo").config.replace(crop_size=224, max_gap=5, steps=10_000)
        return [Way("store", settings), Way("online", settings, online=True)]
    settings = find_recipe("s14-youtube-vos").config.replace(batch_size=32)
    half = settings.replace(precision="bfloat16")
    return [
        Way("store", half, compiled=True),
        Way("online", half, online=True, compiled=True),
        Way("reference", settings, online=True),
    ]


def build_store(folder: Path, device: str, depth: str | None) -> stores.CueStore:
    """A few clips with the sizes of profile small."""
    names = [f"{index}.mp4" for index in range(CLIPS)]
    for index, name in enumerate(names):
        film(folder / name, index, frames=60)
    chosen = CPU_NETWORKS if device == "cpu" else GPU_NETWORKS
    if depth is not None:
        chosen = {**chosen, "depth": depth, "depth_weights": "random"}
    given = {"dataset": "videos", "profile": "small", "decoder": "pyav", "encoder_weights": "random", **chosen}
    config, run = BuildConfig.resolve(given), BuildOptions(folder, device=device)
    networks = setup.setup(config, run)
    store = build.open_store(folder / "s.zarr", config, run, networks, names)
    with Worker(config, run, networks) as worker:
        for report in build.build_local(store, worker, store.pending_tasks()):
            assert not report.failed
    return stores.open(folder / "s.zarr")


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def one_step(trainer: Trainer, batch: PairBatch) -> object:
    """A training step, waited for."""
    update = trainer.compute_gradients(batch)
    trainer.apply(update)
    return trainer.check(update)


def step_seconds(trainers: dict[str, Trainer], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each round's step of each way, reading included, after one that is not counted."""
    batches = {name: trainer.batches() for name, trainer in trainers.items()}
    found: dict[str, list[float]] = {name: [] for name in trainers}
    for n in range(rounds + 1):
        for name, trainer in trainers.items():
            seconds = seconds_of(lambda name=name, trainer=trainer: one_step(trainer, next(batches[name])), device)
            if n:
                found[name].append(seconds)
    return found


def loader_share(trainer: Trainer, device: torch.device) -> float:
    """The part of the time that the step waits for its batch, with processes that read ahead."""
    waited = computed = 0.0
    batches = trainer.batches()
    one_step(trainer, next(batches))
    for _ in range(STEPS_AHEAD):
        began = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - began
        computed += seconds_of(lambda batch=batch: one_step(trainer, batch), device)
    return waited / (waited + computed)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", help="another depth network than tiny, or on a GPU than Depth Anything V2 Large")
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = build_store(folder, options.device, options.depth)
        compared = ways(device)
        trainers = {way.name: way.trainer(store, folder / way.name, device) for way in compared}
        found = step_seconds(trainers, options.rounds, device)
        ours = compared[0].trainer(store, folder / "ahead", device, LOADERS)
        rank = loader_share(ours, device)
    config, width = compared[0].settings, trainers["store"].train_step.decoder.widths.inner
    settings = f"{config.batch_size} pairs at {config.crop_size} px, decoder {width} wide"
    out.print(f"{settings}, on {device}, {torch.get_num_threads()} threads, median of {options.rounds}")
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, seconds in medians.items():
        out.print(f"{name}: {seconds:.3f} s")
    depth = options.depth or (CPU_NETWORKS if device.type == "cpu" else GPU_NETWORKS)["depth"]
    measured = [
        quantity.figure(medians[name] / medians["store"], f"{settings}, depth by {depth}")
        for name, quantity in SLOWER[device.type].items()
    ]
    measured.append(WAITING.figure(rank * 100, f"loader processes: {LOADERS}"))
    figures.hand_back(options.figures, FIGURES[device.type], measured)


if __name__ == "__main__":
    main()
