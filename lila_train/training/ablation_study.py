"""Carrying out ablations: every row with every seed is trained and scored in a folder of its own, and resumed there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import stores
from lila_cues.networks import FrozenEncoder
from lila_train.evaluation.harness import Task, evaluate
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.models import ENCODER, LilaModel
from lila_train.model.decoder import DecoderWidths
from lila_train.training.ablations import FULL, Ablation
from lila_train.training.callbacks import ScoreCallback
from lila_train.training.config import TrainConfig
from lila_train.training.run_dir import RunDir
from lila_train.training.step import Hardware
from lila_train.training.trainer import LoopOptions, StepRecord, Trainer

Observer = Callable[[str, int, float | None], None]
"""Told the run's name, how many steps are new, and the loss of the last; None for steps of an earlier call."""


@dataclass(frozen=True)
class RowScores:
    """J&F of a row's seeds by one protocol, in percent; those that are still missing are not there.

    by_step: of each seed that was scored on the way, J&F by the number of steps, the end included.
    """

    row: Ablation
    by_seed: Mapping[int, float]
    by_step: Mapping[int, Mapping[int, float]] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Over the seeds at hand; None where there is none."""
        return float(np.mean(list(self.by_seed.values()))) if self.by_seed else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds (unbiased); None below two."""
        return float(np.std(list(self.by_seed.values()), ddof=1)) if len(self.by_seed) > 1 else None

    def gain_over(self, full: RowScores) -> float | None:
        """Mean difference to the full model over the seeds that both have."""
        shared = self.by_seed.keys() & full.by_seed.keys()
        if not shared:
            return None
        return float(np.mean([self.by_seed[seed] - full.by_seed[seed] for seed in shared]))


@dataclass(frozen=True)
class Finding:
    """What one protocol says: J&F of the frozen encoder alone, in percent, and of every row."""

    protocol: str
    encoder: float
    scores: Sequence[RowScores]

    @property
    def full(self) -> RowScores:
        """The row that the others are compared with."""
        return next(scores for scores in self.scores if scores.row.name == FULL.name)


@dataclass(frozen=True)
class Study:
    """What is compared with what, on which store, by which protocols; `out/ROW/seed-N` holds a run and its scores.

    score_every: steps between scores on the way; None: the finished runs alone are scored.
    """

    store: stores.CueStore
    encoder: FrozenEncoder
    settings: TrainConfig
    tasks: Sequence[Task]
    out: Path
    hardware: Hardware
    num_workers: int = 0
    encoder_weights: Path | None = None
    score_every: int | None = None

    def folder(self, row: Ablation, seed: int) -> RunDir:
        """Where a row's run with a seed lives."""
        return RunDir(self.out / row.name / f"seed-{seed}")

    @property
    def decoder_width(self) -> int:
        """Inner width of every row's decoder."""
        return DecoderWidths.of_encoder(self.encoder.width, self.settings.decoder_width).inner

    def carry_out(self, rows: Sequence[Ablation], seeds: Sequence[int], observe: Observer) -> list[Finding]:
        """Train and score what is missing, one seed of all rows after the other, and read the rest."""
        found: dict[tuple[str, str], dict[int, float]] = {}
        for seed in seeds:
            for row in rows:
                self._train(row, seed, observe)
                for task in self.tasks:
                    found.setdefault((task.protocol, row.name), {})[seed] = self._score(task, row, seed)
        findings = []
        for task in self.tasks:
            scores = [(row, found[task.protocol, row.name]) for row in rows]
            kept = [RowScores(row, by_seed, self._by_step(task, row, by_seed)) for row, by_seed in scores]
            findings.append(Finding(task.protocol, self._baseline(task), kept))
        return findings

    def _baseline(self, task: Task) -> float:
        """J&F of the frozen encoder alone, in percent; it has no seed."""
        weights = self.folder(FULL, self.settings.seed).weights
        return self._scored(task, weights, ENCODER, self.out / ENCODER)

    def _train(self, row: Ablation, seed: int, observe: Observer) -> None:
        folder, name = self.folder(row, seed), f"{row.label}, seed {seed}"
        folder.claim(resume=True)

        def observe_step(step: StepRecord) -> None:
            observe(name, 1, step.loss)

        meanwhile = [ScoreCallback(self.score_every, self.tasks, at_end=False)] if self.score_every else []
        running = LoopOptions(self.num_workers, observers=(observe_step,), callbacks=meanwhile)
        settings = row.of(replace(self.settings, seed=seed))
        trainer = Trainer(self.store, self.encoder, settings, folder, self.hardware, running)
        if trainer.is_finished():
            observe(name, settings.steps, None)
            return
        trainer.restore()
        observe(name, trainer.step, None)
        trainer.run()

    def losses(self, row: Ablation, seeds: Sequence[int]) -> list[list[float]]:
        """The loss of every step, by seed."""
        return [[step["loss"] for step in self.folder(row, seed).rows()] for seed in seeds]

    def _by_step(self, task: Task, row: Ablation, found: Mapping[int, float]) -> dict[int, dict[int, float]]:
        """Those seeds that were scored on the way."""
        kept = {}
        for seed, final in found.items():
            steps = self.folder(row, seed).scores_by_step(task.protocol, dict(task.counts()), "JF")
            if steps:
                kept[seed] = {step: 100 * value for step, value in steps.items()} | {self.settings.steps: final}
        return kept

    def _score(self, task: Task, row: Ablation, seed: int) -> float:
        folder = self.folder(row, seed)
        return self._scored(task, folder.weights, LilaModel.head, folder.root / "scores")

    def _scored(self, task: Task, weights: Path, head: str, folder: Path) -> float:
        spec = _Heads(weights, encoder_weights=self.encoder_weights, heads_scored=(head,))
        result = evaluate(task, spec, folder / task.protocol, self.hardware.device)
        return 100 * float(result["scores"][head]["JF"])


@dataclass(frozen=True)
class _Heads(ModelSpec):
    """A run of which only some heads are scored."""

    heads_scored: tuple[str, ...] = ()

    def heads(self) -> tuple[str, ...]:
        return self.heads_scored

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"heads": list(self.heads_scored)}
