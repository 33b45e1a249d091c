"""Running ablations: every row with every seed is trained and scored in a folder of its own, and resumed there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import stores
from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.harness import Task, evaluate
from lila_train.evaluation.models import ENCODER, LilaModel
from lila_train.model import checkpoint
from lila_train.model.decoder import Decoder
from lila_train.training.ablations import FULL, Ablation
from lila_train.training.callbacks import Callback, DecoderSpec, RunState, ScoreCallback, StepRecord
from lila_train.training.config import RunOptions, TrainConfig
from lila_train.training.distributed import Rank
from lila_train.training.run_dir import RunDir
from lila_train.training.trainer import Trainer
from stores.atomic import read_lines

Progress = Callable[[str, int, float | None], None]
"""Called with a run's name, the number of new steps, and the last one's loss; None for steps of an earlier call."""


@dataclass(frozen=True)
class RowScores:
    """J&F of a row's seeds by one protocol, in percent; seeds without a result are left out.

    by_step: for each seed that was scored on the way, J&F by the number of steps, the end included.
    """

    row: Ablation
    by_seed: Mapping[int, float]
    by_step: Mapping[int, Mapping[int, float]] = field(default_factory=dict)

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
    """Results by one protocol: J&F of the frozen encoder alone, in percent, and of every row."""

    protocol: str
    encoder: float
    scores: Sequence[RowScores]

    @property
    def full(self) -> RowScores:
        """The row that the others are compared with."""
        return next(scores for scores in self.scores if scores.row.name == FULL.name)


@dataclass(frozen=True)
class Study:
    """Rows compared on one store by some protocols; `out/ROW/seed-N` holds a run and its scores.

    score_every: steps between scores on the way; None: only the finished runs are scored.
    """

    store: stores.CueStore
    encoder: FrozenEncoder
    config: TrainConfig
    tasks: Sequence[Task]
    out: Path
    rank: Rank
    options: RunOptions
    score_every: int | None = None

    def run(self, rows: Sequence[Ablation], seeds: Sequence[int], progress: Progress) -> list[Finding]:
        """Train and score what is missing, all rows with one seed after the other, and read the rest."""
        results: dict[tuple[str, str], dict[int, float]] = {}
        for seed in seeds:
            for row in rows:
                self._train(row, seed, progress)
                run_dir = self.run_dir(row, seed)
                for task in self.tasks:
                    score = self._score(task, run_dir.weights, LilaModel.head, run_dir.root / "scores")
                    results.setdefault((task.protocol, row.name), {})[seed] = score
        findings = []
        for task in self.tasks:
            weights = self.run_dir(FULL, self.config.seed).weights
            encoder = self._score(task, weights, ENCODER, self.out / ENCODER)  # has no seed
            scores = []
            for row in rows:
                by_seed = results[task.protocol, row.name]
                scores.append(RowScores(row, by_seed, self._by_step(task, row, by_seed)))
            findings.append(Finding(task.protocol, encoder, scores))
        return findings

    def run_dir(self, row: Ablation, seed: int) -> RunDir:
        return RunDir(self.out / row.name / f"seed-{seed}")

    def losses(self, row: Ablation, seeds: Sequence[int]) -> list[list[float]]:
        """Return the loss of every step, by seed."""
        return [[step["loss"] for step in self.run_dir(row, seed).rows()] for seed in seeds]

    def _train(self, row: Ablation, seed: int, progress: Progress) -> None:
        name = f"{row.label}, seed {seed}"
        config = self.config.replace(**{"seed": seed, **row.changes})
        run_dir = RunDir.open(self.run_dir(row, seed).root, config, self.store)
        trainer = Trainer(self.store, self.encoder, config, run_dir, self.rank, self.options)
        if trainer.is_finished():
            progress(name, config.steps, None)
            return
        trainer.restore()
        progress(name, trainer.step, None)

        class ReportLoss(Callback):
            def on_step_end(self, run: RunState, record: StepRecord) -> None:
                progress(name, 1, record.loss)

        callbacks: list[Callback] = [ReportLoss()]
        if self.score_every:
            callbacks.append(ScoreCallback(self.score_every, self.tasks, at_end=False))
        trainer.fit(callbacks)

    def _score(self, task: Task, weights: Path, head: str, folder: Path) -> float:
        """Return J&F of a run's head in percent."""
        saved = checkpoint.read(weights)
        decoder = Decoder(saved.provenance.widths).to(self.rank.device).requires_grad_(False)
        decoder.load_state_dict(dict(saved.decoder))
        spec = DecoderSpec(self.encoder, decoder, head)
        result = evaluate(task, spec, folder / task.protocol, self.rank.device, checked=True)
        return 100 * float(result["scores"][head]["JF"])

    def _by_step(self, task: Task, row: Ablation, final: Mapping[int, float]) -> dict[int, dict[int, float]]:
        """Return J&F by step of the seeds that were scored on the way."""
        scores = {}
        for seed, score in final.items():
            lines = read_lines(self.run_dir(row, seed).scores, "protocol")[0]
            lines = [n for n in lines if (n["protocol"], n.get("counts")) == (task.protocol, task.counts())]
            if lines:
                scores[seed] = {n["step"]: 100 * n["figures"]["JF"] for n in lines} | {self.config.steps: score}
        return scores
