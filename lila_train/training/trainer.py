"""The training loop: pairs from the store, one step of the objective, AdamW, log, checkpoints, resume."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

import stores
from lila_cues import console
from lila_cues.networks import FrozenEncoder, WeightSource, restore_encoder
from lila_train.model import checkpoint
from lila_train.model.checkpoint import Provenance
from lila_train.training.config import RunOptions, TrainConfig
from lila_train.training.crops import make_views
from lila_train.training.data import PairBatch, PairDataset, explain_loader_errors, load_pairs
from lila_train.training.distributed import Rank
from lila_train.training.losses import Losses
from lila_train.training.run_dir import RunDir
from lila_train.training.step import TrainStep
from lila_train.training.targets import stored_arrays, training_clips
from stores.atomic import append_line, read_lines
from stores.errors import LilaError
from stores.ledger import COMPLETE


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


@dataclass(frozen=True)
class Update:
    """A step whose gradients are computed; its statistics may still be on their way to the host.

    Attributes:
        loss: of this rank.
        non_finite: 1 if a cue or the loss is not finite on any rank, else 0; on the device.
        totals: sums over ranks: the losses packed, broken pairs, and ranks that received SIGTERM and SIGINT.
        copied: when `totals` are on the host; None on a CPU.
    """

    batch: PairBatch
    loss: Tensor
    non_finite: Tensor
    totals: Tensor
    copied: torch.cuda.Event | None

    @classmethod
    def of(cls, batch: PairBatch, loss: Tensor, totals: Tensor) -> Update:
        """Start to copy `totals` to the host."""
        non_finite = (~torch.isfinite(totals[0]) | (totals[-3] > 0)).float()
        on_host = torch.empty_like(totals, device="cpu", pin_memory=totals.is_cuda)
        on_host.copy_(totals, non_blocking=True)
        copied = torch.cuda.Event() if totals.is_cuda else None
        if copied is not None:
            copied.record()
        return cls(batch, loss, non_finite, on_host, copied)


class Trainer:
    """A training run, with its state at a step: weights, optimizer, files.

    Attributes:
        step: number of finished steps.
        stop: the signal on which all ranks end after the current step, or None.
        clips: the store's clips that pairs are drawn from: those that were complete when the run began.
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
        at_once, compile = self.options.device_batch_size, self.options.compile
        self.train_step = TrainStep(encoder, config, self.rank, device_batch_size=at_once, compile=compile)
        self.optimizer = torch.optim.AdamW(
            self.train_step.parameters.values(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.make_views = torch.compile(make_views) if compile else make_views
        self.step = 0
        self.stop: signal.Signals | None = None
        self.clips = training_clips(store)

    def restore(self) -> bool:
        """Continue all ranks from the newest readable checkpoint in the folder; return whether there is one.

        Raises:
            LilaError: the run is finished, but cannot be continued; or ranks differ in settings, store or clips.
        """
        chosen = self.rank.on_main(self._choose_checkpoint)
        with self.rank.together():
            if chosen["path"] is not None:
                saved = checkpoint.read(Path(chosen["path"]))
                self.train_step.restore(saved.decoder, saved.extra)
                checkpoint.restore_optimizer(self.optimizer, list(self.train_step.parameters), saved.extra)
                self.step = saved.provenance.step
                if self.step > self.config.steps:
                    raise LilaError(
                        f"expected --steps of {self.step} at least, the step of the checkpoint in {self.run_dir.root}, "
                        f"found {self.config.steps}; raise it, or start again with --overwrite"
                    )
            self.clips = np.array(chosen["clips"], dtype=np.int64)
            statuses = self.store.statuses()
            lost = self.clips[statuses[self.clips] != COMPLETE]
            if len(lost):
                raise LilaError(
                    f"expected the clips that this run began with in {self.store.path}, found {len(lost)} of "
                    f"{len(self.clips)} incomplete, such as {self.store.clip_id(int(lost[0]))}; build them again, or "
                    "start again with --overwrite"
                )
            digest = hashlib.sha256(json.dumps([self.config.to_dict(), self.provenance().store]).encode()).hexdigest()
        with self.rank.together():
            self.rank.check_agreement(digest, "settings, clips or a store")
        return self.step > 0

    def _choose_checkpoint(self) -> dict[str, Any]:
        """Return the newest readable checkpoint and its list of clips, or no checkpoint and the complete clips."""
        for path in reversed(self.run_dir.checkpoints()):
            try:
                saved = checkpoint.read(path)
            except LilaError as error:
                console.err.print(f"skipped a checkpoint that cannot be read: {error}")
                continue
            self.run_dir.truncate_logs(saved.provenance.step)
            return {"path": str(path), "clips": saved.extra["clips"].tolist()}
        if self.run_dir.weights.exists():
            raise LilaError(
                f"{self.run_dir.root} holds the weights of a run, but no checkpoint to continue from; start again with "
                "--overwrite, or pass another --out"
            )
        self.run_dir.truncate_logs(0)
        return {"path": None, "clips": self.clips.tolist()}

    def is_finished(self) -> bool:
        """Return whether the folder holds this run's weights after all steps."""
        weights = self.run_dir.weights
        return weights.exists() and checkpoint.read(weights).provenance.step >= self.config.steps

    @explain_loader_errors()
    def fit(
        self, callbacks: Sequence[Callback] = (), received: Callable[[], signal.Signals | None] = lambda: None
    ) -> signal.Signals | None:
        """Compute the remaining steps and write the weights; return None.

        `received` returns a signal that asks this rank to stop. Then all ranks stop after the step, with a checkpoint,
        and return the signal.
        """
        if self.step == 0 and self.config.init == "pca":
            batch = next(load_pairs(self.dataset(), range(1), self.rank))
            with oom_hint(self.config, self.rank, self.options.device_batch_size):
                views = make_views(batch, self.config, reduce=self.rank.all_reduce_sum)
                self.train_step.init_pca(torch.cat([view.image for view in views]), self.rank)
        last: Update | None = None
        self._clock = time.monotonic()
        for batch in self.batches():
            update = self.compute_gradients(batch, received())
            if last is not None:  # its losses are on the host by now, and the device has work to do
                self._end_step(last, callbacks)
                if self.stop:
                    self.rank.barrier()  # torchrun kills the other ranks as soon as one has ended
                    return self.stop
            self.apply(update)
            last = update
        if last is not None:
            self._end_step(last, callbacks)
        if self.rank.is_main:
            checkpoint.write(self.run_dir.weights, self.train_step.exported, self.provenance())
        self.rank.barrier()
        return None

    def _end_step(self, update: Update, callbacks: Sequence[Callback]) -> None:
        """Log the last step, call the callbacks, and save if it is time, or a signal was received."""
        losses = self.check(update)
        seconds = round(time.monotonic() - self._clock, 4)
        if self.rank.is_main:
            terms = {name: value.item() for name, value in losses.terms.items()}
            record = StepRecord(
                self.step - 1, losses.total.item(), terms, self.config.learning_rate(self.step - 1), seconds
            )
            append_line(self.run_dir.log, record.to_row())
            for callback in callbacks:
                callback(self, record)
        if self.stop or self.step % self.options.checkpoint_every == 0 or self.step == self.config.steps:
            self.save()
        self._clock = time.monotonic()

    def compute_gradients(self, batch: PairBatch, received: signal.Signals | None = None) -> Update:
        """Compute the gradients of a batch on the device, and queue the statistics of the step.

        Two sums over ranks: of statistics before the forward pass; of losses, broken pairs and received signals after
        the backward pass. On a GPU the host waits for nothing. Raises LilaError if memory ran out.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with oom_hint(self.config, self.rank, self.options.device_batch_size):
            context, query = self.make_views(batch, self.config, reduce=self.rank.all_reduce_sum)
            packed = self.train_step.backward(context, query).packed()
        flags = [packed.new_full((1,), received is number) for number in (signal.SIGTERM, signal.SIGINT)]
        totals = self.rank.all_reduce_sum(torch.cat((packed, (~batch.finite()).sum()[None], *flags)))
        return Update.of(batch, packed[0], totals)

    def apply(self, update: Update) -> None:
        """Take one AdamW step; the device leaves the weights as they are if a cue or the loss is not finite."""
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.train_step.parameters.values(), self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.step)
        self.optimizer.found_inf = update.non_finite  # type: ignore[attr-defined] # as torch.amp.GradScaler sets it
        self.optimizer.step()
        self.train_step.update_ema(self.step)
        self.step += 1

    def check(self, update: Update) -> Losses:
        """Return the losses of the global batch of an applied step; `stop` is then a signal that any rank received.

        Raises:
            LilaError: a cue or the loss was not finite on any rank.
        """
        if update.copied is not None:
            update.copied.synchronize()
        *packed, n_broken, terminated, interrupted = update.totals
        losses = Losses.unpack(torch.stack(packed) / self.rank.world_size)
        if n_broken or not torch.isfinite(losses.total):
            self._explain_non_finite(update)
        self.stop = signal.SIGTERM if terminated else signal.SIGINT if interrupted else None
        return losses

    def _explain_non_finite(self, update: Update) -> NoReturn:
        clips = [self.store.clip_id(int(clip)) for clip in update.batch.clips]
        broken = [clip for clip, finite in zip(clips, update.batch.finite().tolist(), strict=True) if not finite]
        if broken:
            found = f"the cues of {', '.join(broken)} hold NaN; check with lila-cues verify {self.store.path}"
        elif torch.isfinite(update.loss):
            if not self.rank.is_main:
                raise SystemExit(console.EXIT_BAD_INPUT)  # the message is that of the rank with the broken clips
            found = "cues or loss are NaN on another rank"
        else:
            found = (
                f"the loss is NaN for {', '.join(clips)}, whose cues are finite: training diverged; {self._remedy()}"
            )
        raise LilaError(f"stopped at step {self.step - 1}: {found}. The last checkpoint is kept")

    def _remedy(self) -> str:
        return f"lower --lr (now {self.config.lr:g}) or pass --set clip_norm=1, in another --out"

    def check_weights(self) -> None:
        """Raise LilaError if weights, or the features of an image of noise, are not finite."""
        size = self.config.crop_size
        noise = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(self.rank.device)
        step = self.train_step
        with torch.no_grad():
            tensors = [*step.parameters.values(), step.decoder(step.encoder(noise), (size, size))]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            raise LilaError(
                f"stopped after step {self.step}: weights or features are not finite: training diverged; "
                f"{self._remedy()}. The last checkpoint is kept"
            )

    def batches(self) -> Iterator[PairBatch]:
        """Return this rank's batches of the remaining steps."""
        return load_pairs(self.dataset(), range(self.step, self.config.steps), self.rank, self.options.num_workers)

    def dataset(self) -> PairDataset:
        width = self.train_step.encoder.width
        return PairDataset(self.store.address, self.config, stored_arrays(self.config), width, self.clips)

    def save(self) -> None:
        """Write a checkpoint to resume from, and delete all but the newest two."""
        if not self.rank.is_main:
            return
        self.check_weights()
        extra = checkpoint.optimizer_tensors(self.optimizer, list(self.train_step.parameters))
        extra |= self.train_step.extra_state() | {"clips": torch.from_numpy(self.clips.astype(np.int32))}
        checkpoint.write(self.run_dir.checkpoint(self.step), self.train_step.decoder, self.provenance(), extra)
        for path in self.run_dir.checkpoints()[:-2]:
            if not path.is_dir():  # which is not ours
                path.unlink()

    def provenance(self) -> Provenance:
        """Return what a checkpoint records about this run."""
        return Provenance(
            encoder=self.train_step.encoder.source,
            widths=self.train_step.decoder.widths,
            step=self.step,
            settings=self.config.to_dict(),
            store={
                "path": str(self.store.path),
                "fingerprint": self.store.fingerprint,
                "dataset": self.store.provenance.get("settings", {}).get("dataset"),
                "clips": len(self.clips),
                "clips_sha256": hashlib.sha256(self.clips.astype("<i4").tobytes()).hexdigest(),
            },
            versions=checkpoint.versions(),
            scores=[row for row in read_lines(self.run_dir.scores, "step")[0] if row["step"] == self.step],
        )


Callback = Callable[[Trainer, StepRecord], None]
"""Logging and validation after every step: called on rank 0, it changes nothing and communicates with no other rank."""


@contextmanager
def oom_hint(config: TrainConfig, rank: Rank, device_batch_size: int | None) -> Iterator[None]:
    """Turn an out-of-memory error into a LilaError that names the options that save memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        on_cpu = "can't allocate memory" in str(error)  # PyTorch raises a plain RuntimeError there
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or on_cpu):
            raise
        pairs = config.batch_size // rank.world_size
        at_once = min(pairs, device_batch_size or pairs)
        remedies = []
        if at_once > 1:
            remedies.append(f"--device-batch-size {at_once // 2} computes the same step in smaller parts")
        if config.precision == "float32" and rank.device.type == "cuda":
            remedies.append("--precision bfloat16 halves most of it")
        remedies.append("--crop-size and --set decoder_width make it smaller, as another run")
        raise LilaError(
            f"out of memory on {rank.device} in a step of {pairs} pairs, {at_once} at once, at {config.crop_size} px; "
            f"{', '.join(remedies)}; the same command continues from the last checkpoint"
        ) from error


def encoder_of_store(store: stores.CueStore, weights: Path | None, device: torch.device) -> FrozenEncoder:
    """Load the encoder whose features the store holds; `weights` is where its file is now, if it moved."""
    return restore_encoder(WeightSource.from_dict(store.provenance["networks"]["encoder"]), weights, device)
