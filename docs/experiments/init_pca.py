"""What a start as a linear upsampler (`init=pca`) and a moving average (`ema=0.999`) change in short runs.

J&F by local k-NN after 200, 400, 1,000 and 2,000 steps, three seeds, of the trained decoder and of its moving average
(docs/results.md, "Start and moving average"). Hardware: two CPU cores; a step on the demo's store takes 0.6 CPU
seconds, a score 40. Run it again to resume.

python docs/experiments/init_pca.py STORE DATA OUT [--steps N] [--limit SEQUENCES] [--set NAME=VALUE ...]

    make demo
    python docs/experiments/init_pca.py runs/demo/cues.zarr data/demo/heldout runs/init-pca --steps 1000
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

import stores
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.harness import Task, check, evaluate
from lila_train.evaluation.protocols import open_task
from lila_train.outputs import read_json
from lila_train.training.callbacks import DecoderSpec
from lila_train.training.config import RunOptions, find_recipe
from lila_train.training.run_dir import RunDir
from lila_train.training.trainer import StepRecord, Trainer, encoder_of_store

SCORED, SEEDS, INITS = (200, 400, 1000, 2000), (0, 1, 2), ("default", "pca")


@dataclass(frozen=True)
class Scores:
    """Score the trained decoder and its moving average at the chosen steps."""

    task: Task

    def __call__(self, run: Trainer, record: StepRecord) -> None:
        if run.step in SCORED:
            for weights, decoder in (("last", run.train_step.decoder), ("ema", run.train_step.exported)):
                spec, folder = DecoderSpec(run.train_step.encoder, decoder), run.run_dir.root / "scores"
                evaluate(self.task, spec, folder / f"{run.step}-{weights}", run.rank.device, checked=True)


def main(place: str, data: Path, out: Path, steps: int, limit: int | None, changes: Sequence[str]) -> None:
    task = open_task("davis-knn@lila", data, EvalConfig(limit=limit))
    check(task)
    store = stores.open(place)
    found: dict[tuple[int, str, str], list[float]] = defaultdict(list)
    for seed in SEEDS:
        for init in INITS:
            config = find_recipe("demo").config
            config = config.replace(**config.parse_assignments([*changes, f"init={init}", "ema=0.999"]))
            config = config.replace(seed=seed, steps=steps)
            encoder = encoder_of_store(store, None, torch.device("cpu"))
            run_dir = RunDir.open(out / f"{init}-{seed}", config, store)
            trainer = Trainer(store, encoder, config, run_dir, options=RunOptions(checkpoint_every=200))
            trainer.restore()
            trainer.fit([Scores(task)])
            for step, weights in product(SCORED, ("last", "ema")):
                result = read_json(run_dir.root / "scores" / f"{step}-{weights}" / "result.json")
                if result is not None:
                    found[step, init, weights].append(100 * result["scores"]["lila"]["JF"])
                    print(init, seed, step, weights, f"{found[step, init, weights][-1]:.1f}", flush=True)
    for (step, init, weights), values in sorted(found.items()):
        scores = ", ".join(f"{value:.1f}" for value in values)
        print(f"| {step:,} | {init} | {weights} | {scores} | {np.mean(values):.1f} | {np.std(values, ddof=1):.1f} |")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("store")
parser.add_argument("data", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--limit", type=int, help="number of sequences")
parser.add_argument("--set", action="append", default=[], dest="changes")
options = parser.parse_args()
main(options.store, options.data, options.out, options.steps, options.limit, options.changes)
