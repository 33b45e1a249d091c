"""Running ablations: every row with every seed is trained and scored in a folder of its own, and resumed there."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import stores
from lila_cues import console
from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.harness import Task, evaluate
from lila_train.evaluation.models import ENCODER, LilaModel
from lila_train.model import checkpoint
from lila_train.model.decoder import Decoder
from lila_train.training.ablations import FULL, Ablation
from lila_train.training.callbacks import DecoderSpec, ScoreCallback
from lila_train.training.config import RunOptions, TrainConfig
from lila_train.training.distributed import Rank
from lila_train.training.run_dir import RunDir
from lila_train.training.trainer import Trainer
from stores.atomic import read_lines
from stores.errors import LilaError

Progress = Callable[[str, int, float | None], None]
"""Called with a run's name, the number of new steps, and the last one's loss; None for steps of an earlier call."""


class Score(NamedTuple):
    """J&F in percent: of all objects, and of each sequence."""

    total: float
    by_sequence: Mapping[str, float] = {}


Scores = dict[str, Score]
"""By protocol."""
Done = Callable[[str, Scores, float], None]
"""Called with a run's name, its scores by protocol, and the seconds that it took now."""
Run = tuple[Ablation, int]
"""A row with a seed."""


@dataclass(frozen=True)
class RowScores:
    """J&F of a row's seeds by one protocol, in percent; seeds without a result are left out.

    by_step: for each seed that was scored on the way, J&F by the number of steps, the end included.
    by_sequence: means over the seeds.
    """

    row: Ablation
    by_seed: Mapping[int, float]
    by_step: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    by_sequence: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None without a result."""
        return float(np.mean(list(self.by_seed.values()))) if self.by_seed else None

    @property
    def std(self) -> float | None:
        """Standard deviation over the seeds (unbiased); None below two."""
        return float(np.std(list(self.by_seed.values()), ddof=1)) if len(self.by_seed) > 1 else None

    def gain_over(self, full: RowScores) -> float | None:
        """Return the mean difference to the full model over the seeds that both have."""
        shared = self.by_seed.keys() & full.by_seed.keys()
        if not shared:
            return None
        return float(np.mean([self.by_seed[seed] - full.by_seed[seed] for seed in shared]))


@dataclass(frozen=True)
class Finding:
    """Results by one protocol, with its changed settings: J&F of the frozen encoder alone and of every row."""

    protocol: str
    encoder: Score
    scores: Sequence[RowScores]

    @property
    def full(self) -> RowScores:
        """The row that the others are compared with."""
        return next(scores for scores in self.scores if scores.row.name == FULL.name)


@dataclass(frozen=True)
class Study:
    """Rows compared on one store by some protocols; `out/ROW/seed-N` holds a run and its scores.

    score_at: numbers of steps after which a run is scored on the way; the finished ones are scored anyway.
    """

    store: stores.CueStore
    encoder: FrozenEncoder
    config: TrainConfig
    tasks: Sequence[Task]
    out: Path
    rank: Rank
    options: RunOptions
    score_at: Sequence[int] = ()

    def run(
        self, rows: Sequence[Ablation], seeds: Sequence[int], progress: Progress, done: Done, jobs: int = 1
    ) -> list[Finding]:
        """Train and score what is missing, all rows with one seed after the other, and read the rest.

        Args:
            jobs: number of processes that do so side by side, by one thread or one GPU each.

        Raises:
            LilaError: a run has failed, or a process was killed.
        """
        runs = [(row, seed) for seed in seeds for row in rows]
        finished = (
            self._in_processes(runs, min(jobs, len(runs)), progress)
            if jobs > 1
            else ((row, seed, *self.train_and_score(row, seed, progress)) for row, seed in runs)
        )
        results: dict[tuple[str, str], dict[int, Score]] = {}
        for number, (row, seed, scores, seconds) in enumerate(finished, 1):
            done(f"{number} of {len(runs)}, seed {seed}: {row.label}", scores, seconds)
            for protocol, score in scores.items():
                results.setdefault((protocol, row.name), {})[seed] = score
        findings = []
        for task in self.tasks:
            weights = self.run_dir(FULL, self.config.seed).weights
            encoder = self._score(task, weights, ENCODER, self.out / ENCODER)  # has no seed
            row_scores = []
            for row in rows:
                found = results[task.protocol, row.name]
                by_seed = {seed: found[seed].total for seed in seeds}
                by_sequence = {
                    name: float(np.mean([score.by_sequence[name] for score in found.values()]))
                    for name in encoder.by_sequence
                }
                row_scores.append(RowScores(row, by_seed, self._by_step(task, row, by_seed), by_sequence))
            findings.append(Finding(task.config.evaluation_id(task.protocol), encoder, row_scores))
        return findings

    def _in_processes(
        self, runs: Sequence[Run], jobs: int, progress: Progress
    ) -> Iterator[tuple[Ablation, int, Scores, float]]:
        """Yield runs with their scores and seconds as processes finish them."""
        context, gpus = multiprocessing.get_context("spawn"), torch.cuda.device_count()
        devices = context.Queue()
        for n in range(jobs):
            devices.put(f"cuda:{n % gpus}" if self.rank.device.type == "cuda" else str(self.rank.device))
        self.encoder.cpu()  # to be sent to the processes
        try:
            with ProcessPoolExecutor(jobs, context, _start_job, (self, devices)) as pool:
                try:
                    futures = {pool.submit(_run_job, *run): run for run in runs}
                    for future in as_completed(futures):
                        progress(f"{jobs} rows at once", self.config.steps, None)
                        yield (*futures[future], *future.result())
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    for process in multiprocessing.active_children():
                        process.terminate()
                    raise
        except BrokenProcessPool as error:
            raise LilaError(
                "a process of --jobs was killed, perhaps for lack of memory; finished rows are kept: run the same "
                "command again, with fewer --jobs"
            ) from error
        finally:
            self.encoder.to(self.rank.device)

    def train_and_score(self, row: Ablation, seed: int, progress: Progress) -> tuple[Scores, float]:
        """Return J&F of a row with a seed in percent, by protocol, and the seconds; what is missing is computed."""
        began = time.monotonic()
        self._train(row, seed, partial(progress, f"{row.label}, seed {seed}"))
        run_dir = self.run_dir(row, seed)
        scores = {
            task.protocol: self._score(task, run_dir.weights, LilaModel.head, run_dir.root / "scores")
            for task in self.tasks
        }
        return scores, time.monotonic() - began

    def run_dir(self, row: Ablation, seed: int) -> RunDir:
        return RunDir(self.out / row.name / f"seed-{seed}")

    def losses(self, row: Ablation, seeds: Sequence[int]) -> list[list[float]]:
        """Return the loss of every step, by seed."""
        return [[step["loss"] for step in self.run_dir(row, seed).rows()] for seed in seeds]

    def _train(self, row: Ablation, seed: int, progress: Callable[[int, float | None], None]) -> None:
        config = self.config.replace(**{"seed": seed, **row.changes})
        run_dir = RunDir.open(self.run_dir(row, seed).root, config, self.store)
        trainer = Trainer(self.store, self.encoder, config, run_dir, self.rank, self.options)
        if trainer.is_finished():
            progress(config.steps, None)
            return
        trainer.restore()
        progress(trainer.step, None)
        scored = {*self.score_at} - {config.steps}
        trainer.fit([lambda run, record: progress(1, record.loss), ScoreCallback(scored, self.tasks)])

    def _score(self, task: Task, weights: Path, head: str, folder: Path) -> Score:
        """Return J&F of a run's head."""
        saved = checkpoint.read(weights)
        decoder = Decoder(saved.provenance.widths).to(self.rank.device).requires_grad_(False)
        decoder.load_state_dict(dict(saved.decoder))
        spec = DecoderSpec(self.encoder, decoder, head)
        result = evaluate(task, spec, folder / task.protocol, self.rank.device, checked=True)
        by_sequence = {name: task.metrics([record]) for name, record in result["parts"][head].items()}
        return Score(
            100 * result["scores"][head]["JF"],
            {name: 100 * metrics["JF"] for name, metrics in by_sequence.items() if metrics["JF"] is not None},
        )

    def _by_step(self, task: Task, row: Ablation, final: Mapping[int, float]) -> dict[int, dict[int, float]]:
        """Return J&F by step of the seeds that were scored on the way."""
        scores = {}
        for seed, score in final.items():
            lines = read_lines(self.run_dir(row, seed).scores, "protocol")[0]
            lines = [n for n in lines if (n["protocol"], n.get("counts")) == (task.protocol, task.counts())]
            if lines:
                scores[seed] = {n["step"]: 100 * n["figures"]["JF"] for n in lines} | {self.config.steps: score}
        return scores


_job: list[Study] = []  # of this process, if it is one of --jobs


def _start_job(study: Study, devices: Any) -> None:
    """Prepare a process of `_in_processes`; the first process has the progress and the signals."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    console.err.quiet = True
    device = torch.device(devices.get())
    _job.append(replace(study, encoder=study.encoder.to(device), rank=Rank(device=device)))


def _run_job(row: Ablation, seed: int) -> tuple[Scores, float]:
    return _job[0].train_and_score(row, seed, lambda name, steps, loss: None)
