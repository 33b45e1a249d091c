"""A training step from the store against the same step with its cues computed online, and the loader's share of a step.

python -m tests.benchmarks.training [--rounds 5] [--depth NAME]

With ViT-Ti, RAFT small and the tiny depth network, or another; weights are random where they would be fetched, which
costs the same time. Steps of both ways take turns, each on a batch that stays on the device: reading is in the share of
the loader alone. The figures are medians.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
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
from lila_train.training.losses import Losses
from lila_train.training.run_dir import RunDir
from lila_train.training.trainer import Trainer, encoder_of_store
from tests.benchmarks import figures, meter
from tests.benchmarks.clips import write_images
from tests.benchmarks.figures import Bar, Quantity
from tests.benchmarks.online_cues import OnlineTrainer

CLIPS = 2
NETWORKS = {"encoder": "vit_tiny_patch16_224", "depth": "tiny", "flow": "raft_small"}
RANDOM = {"encoder_weights": "random", "depth_weights": "random", "flow_weights": "random"}
LOADERS, STEPS_AHEAD = 2, 12
SLOWER = Quantity("a training step with its cues computed online, of a step from the store", "×", Bar("at least", 2.5))
WAITING = Quantity("training: time that a step waits for its batch", "%", Bar("below", 5))
MEMORY = Quantity("training: memory at the peak of a step, on top of what is held before it", "MiB")
FIGURES = (SLOWER, WAITING, MEMORY)


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


def build_store(folder: Path, config: BuildConfig, device: str, clips: int = CLIPS) -> stores.CueStore:
    """Build a store of a few clips, from images."""
    names, run = write_images(folder / "frames", clips), BuildOptions(folder / "frames", device=device)
    networks = setup.load_networks(config, run.device)
    store = build.open_store(folder / "s.zarr", config, run, networks.facts(config, device), names)
    with Worker(config, run, networks) as worker:
        for report in build.build_local(store, worker, store.pending_tasks()):
            assert not report.failed
    return stores.open(folder / "s.zarr")


def one_step(trainer: Trainer, batch: PairBatch) -> Losses:
    """A training step, waited for."""
    update = trainer.compute_gradients(batch)
    trainer.apply(update)
    return trainer.check(update)


def step_seconds(trainers: dict[str, Trainer], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round's step of each way, after one that is not counted."""
    batches = {name: next(trainer.batches()) for name, trainer in trainers.items()}
    found: dict[str, list[float]] = {name: [] for name in trainers}
    for n in range(rounds + 1):
        for name, trainer in trainers.items():
            taken = meter.seconds(partial(one_step, trainer, batches[name]), "cpu")
            if n:
                found[name].append(taken)
    return found


def loader_share(trainer: Trainer) -> float:
    """Return the part of the time that the step waits for its batch, with processes that read ahead."""
    waited = computed = 0.0
    batches = trainer.batches()
    one_step(trainer, next(batches))
    for _ in range(STEPS_AHEAD):
        began = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - began
        one_step(trainer, batch)
        computed += time.perf_counter() - began
    return waited / computed


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depth", default=NETWORKS["depth"], help="the depth network")
    options = parser.parse_args()
    chosen = {"dataset": "frames", "profile": "small", **RANDOM, **NETWORKS, "depth": options.depth}
    config, device = find_recipe("demo").config.replace(crop_size=224, max_gap=5, steps=10_000), torch.device("cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = build_store(folder, BuildConfig.resolve(chosen), "cpu")
        ways = Way("store", config), Way("online", config, online=True)
        trainers = {way.name: way.trainer(store, folder / way.name, device) for way in ways}
        found = step_seconds(trainers, options.rounds)
        batch, before = next(trainers["store"].batches()), meter.begin_peak_mib("cpu")
        one_step(trainers["store"], batch)
        memory = meter.peak_mib("cpu") - before
        share = loader_share(ways[0].trainer(store, folder / "ahead", device, LOADERS))
    settings = f"{config.batch_size} pairs at {config.crop_size} px, decoder {config.decoder_width} wide"
    out.print(f"{settings}, {torch.get_num_threads()} threads, median of {options.rounds}")
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, seconds in medians.items():
        out.print(f"{name}: {seconds:.3f} s")
    measured = [
        SLOWER.figure(medians["online"] / medians["store"], f"{settings}, depth by {options.depth}"),
        WAITING.figure(share * 100, f"loader processes: {LOADERS}"),
        MEMORY.figure(memory, settings),
    ]
    figures.hand_back(options.figures, FIGURES, measured)


if __name__ == "__main__":
    main()
