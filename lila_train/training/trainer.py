"""The training loop: pairs from the store, one step of the objective, AdamW, log, checkpoints, resume."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import stores
from lila_cues import console
from lila_cues.networks import FrozenEncoder, WeightSource, restore_encoder
from lila_train.model import checkpoint
from lila_train.model.checkpoint import Provenance
from lila_train.training.config import RunOptions, TrainConfig, differences
from lila_train.training.crops import make_views
from lila_train.training.data import PairBatch, PairDataset, load_pairs
from lila_train.training.distributed import Rank
from lila_train.training.losses import Losses
from lila_train.training.run_dir import RunDir, append_line
from lila_train.training.step import TrainStep
from lila_train.training.targets import stored_arrays
from stores.errors import LilaError


@dataclass(frozen=True)
class StepRecord:
    """A step's losses over the global batch, its learning rate and its seconds, loading included."""

    step: int
    loss: float
    terms: Mapping[str, float]
    lr: float
    seconds: float

    def to_row(self) -> dict[str, Any]:
        return {"step": self.step, "loss": self.loss, **self.terms, "lr": self.lr, "seconds": self.seconds}


class Callback:
    """Logging and validation: called on rank 0 after every step, with `trainer.step` steps finished."""

    def on_step_end(self, trainer: Trainer, record: StepRecord) -> None:
        """Read the trainer; a callback does not change the run."""
        raise NotImplementedError


class Trainer:
    """A training run, with its state at a step: weights, optimizer, files.

    Attributes:
        step: number of finished steps.
    """

    def __init__(
        self,
        store: stores.CueStore,
        encoder: FrozenEncoder,
        config: TrainConfig,
        run_dir: RunDir,
        rank: Rank | None = None,
        options: RunOptions | None = None,
    ) -> None:
        self.store, self.config, self.run_dir = store, config, run_dir
        self.rank, self.options = rank or Rank(), options or RunOptions()
        settings = json.dumps([config.to_dict(), store.fingerprint], sort_keys=True, default=str)
        self.rank.check_agreement(hashlib.sha256(settings.encode()).hexdigest())
        self.train_step = TrainStep(
            encoder, config, self.rank, chunks=self.options.chunks, compile=self.options.compile
        )
        self.optimizer = torch.optim.AdamW(
            self.train_step.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0

    def fit(self, callbacks: Sequence[Callback] = (), stop: Callable[[], bool] = lambda: False) -> bool:
        """Compute the remaining steps and write the weights. Return False if `stop` ended it, after a checkpoint."""
        started = time.monotonic()
        for batch in self.batches():
            losses = self.optimizer_step(batch.to(self.rank.device))
            seconds = round(time.monotonic() - started, 4)
            losses = Losses.unpack(self.rank.all_reduce_mean(losses.packed()).cpu())
            if self.rank.is_main:
                terms = {name: value.item() for name, value in losses.terms.items()}
                lr = learning_rate(self.step - 1, self.config)
                record = StepRecord(self.step - 1, losses.total.item(), terms, lr, seconds)
                append_line(self.run_dir.log, record.to_row())
                for callback in callbacks:
                    callback.on_step_end(self, record)
            started = time.monotonic()
            if self.rank.all_reduce_mean(torch.tensor(float(stop()), device=self.rank.device)) > 0:
                self.save()
                return False
            if self.step % self.options.checkpoint_every == 0 and self.step < self.config.steps:
                self.save()
        if self.rank.is_main:
            checkpoint.write(self.run_dir.weights, self.train_step.decoder, self.provenance())
        return True

    def optimizer_step(self, batch: PairBatch) -> Losses:
        """Forward, backward and one AdamW step on a batch on the device. Return this rank's losses.

        Raises:
            LilaError: a cue or the loss is not finite, on any rank, or memory ran out; the weights are unchanged.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with oom_hint(self.config, self.rank, self.options.chunks):
            context, query = make_views(batch, self.config, reduce=self.rank.all_reduce_sum)
            losses = self.train_step.backward(context, query)
        self._check_finite(batch, losses)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.train_step.parameters.values(), self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self.optimizer.step()
        self.step += 1
        return losses

    def _check_finite(self, batch: PairBatch, losses: Losses) -> None:
        """Raise LilaError on every rank if cues or losses are not finite on one of them."""
        finite = torch.cat((batch.finite(), torch.isfinite(losses.total)[None]))
        if self.rank.all_reduce_mean(finite.all().float()) == 1:
            return
        clips = [self.store.clip_id(int(clip)) for clip in batch.clips]
        broken = [clip for clip, is_finite in zip(clips, finite.tolist(), strict=False) if not is_finite]
        if broken:
            found = f"the cues of {', '.join(broken)} hold NaN"
        else:
            found = "cues or loss are NaN on another rank" if finite[-1] else f"the loss is NaN for {', '.join(clips)}"
        raise LilaError(
            f"stopped at step {self.step}: {found}; check with lila-cues verify {self.store.path}, then continue with "
            "--resume"
        )

    def batches(self) -> DataLoader[PairBatch]:
        """Return this rank's batches of the remaining steps."""
        width = self.train_step.encoder.width
        dataset = PairDataset(str(self.store.path), self.config, stored_arrays(self.config), width)
        return load_pairs(dataset, range(self.step, self.config.steps), self.rank, self.options.num_workers)

    def first_pairs(self, count: int) -> PairBatch:
        """Return up to `count` pairs of step 0 on the device, whatever the current step is; for pictures."""
        config = replace(self.config, batch_size=min(count, self.config.batch_size))
        dataset = PairDataset(str(self.store.path), config, stored_arrays(config), self.train_step.encoder.width)
        return next(iter(load_pairs(dataset, range(1)))).to(self.rank.device)

    def save(self) -> None:
        """Write a checkpoint to resume from, and delete all but the newest two."""
        if not self.rank.is_main:
            return
        state = checkpoint.optimizer_tensors(self.optimizer, list(self.train_step.parameters))
        head = self.train_step.head.state_dict() if self.train_step.head else {}
        extra = state | {f"head.{name}": tensor for name, tensor in head.items()}
        checkpoint.write(self.run_dir.checkpoint(self.step), self.train_step.decoder, self.provenance(), extra)
        for path in self.run_dir.checkpoints()[:-2]:
            path.unlink()

    def provenance(self) -> Provenance:
        """Return what a checkpoint records about this run."""
        return Provenance(
            encoder=self.train_step.encoder.source,
            widths=self.train_step.decoder.widths,
            step=self.step,
            settings=self.config.to_dict(),
            store={"path": str(self.store.path), "fingerprint": self.store.fingerprint},
            versions=checkpoint.versions(),
        )

    def is_finished(self) -> bool:
        """Return whether the folder holds this run's weights after all steps; another run's raise LilaError."""
        if not self.run_dir.weights.exists():
            return False
        recorded = checkpoint.read(self.run_dir.weights).provenance
        self._check_same_run(recorded, self.run_dir.weights)
        return recorded.step >= self.config.steps

    def restore(self) -> bool:
        """Continue from the newest readable checkpoint in the folder. Return False if there is none."""
        for path in reversed(self.run_dir.checkpoints()):
            try:
                saved = checkpoint.read(path)
            except LilaError as error:
                if self.rank.is_main:
                    console.err.print(f"skipped a checkpoint that cannot be read: {error}")
                continue
            self._check_same_run(saved.provenance, path)
            self.train_step.restore(saved.decoder, saved.extra)
            checkpoint.restore_optimizer(self.optimizer, list(self.train_step.parameters), saved.extra)
            self.step = saved.provenance.step
            break
        if self.rank.is_main:
            self.run_dir.truncate_logs(self.step)
        return self.step > 0

    def _check_same_run(self, recorded: Provenance, path: Path) -> None:
        config = TrainConfig.from_dict(recorded.settings)
        if self.config.schedule == "constant":  # a longer run may continue a shorter one
            config = replace(config, steps=self.config.steps)
        found = differences(config, self.config)
        if recorded.store["fingerprint"] != self.store.fingerprint:
            found.append(f"the store: {recorded.store['path']}, not {self.store.path}")
        if found:
            raise LilaError(
                f"{path} is of a run with other settings ({'; '.join(found)}); pass those, or another --out"
            )


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of a step: linear warm-up from 1/w of it, then constant, or half a cosine down to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


@contextmanager
def oom_hint(config: TrainConfig, rank: Rank, chunks: int) -> Iterator[None]:
    """Turn an out-of-memory error into a LilaError that names the options that save memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_cpu = "can't allocate memory" in str(error)  # PyTorch raises a plain RuntimeError there
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or on_cpu):
            raise
        pairs = config.batch_size // rank.world_size
        remedies = []
        if chunks < pairs:
            remedies.append(f"--chunks {min(pairs, 2 * chunks)} computes the same step in more micro-batches")
        if config.precision == "float32" and rank.device.type == "cuda":
            remedies.append("--precision bfloat16 halves most of it")
        remedies.append("--view-size and --width make it smaller")
        raise LilaError(
            f"out of memory on {rank.device} in a step of {pairs} pairs"
            f"{f' in {chunks} micro-batches' if chunks > 1 else ''} at {config.view_size} px; {', '.join(remedies)}; "
            "then continue with --resume from the last checkpoint, or start again in another --out"
        ) from error


def encoder_of_store(store: stores.CueStore, weights: Path | None, device: torch.device) -> FrozenEncoder:
    """Load the encoder whose features the store holds; `weights` is where its file is now, if it moved."""
    return restore_encoder(WeightSource.from_dict(store.provenance["networks"]["encoder"]), weights, device)
