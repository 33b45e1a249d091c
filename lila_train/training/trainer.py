"""What to do when memory runs out: a sentence that names the options, in place of a traceback.

The training loop: pairs from the store, one step of the method, AdamW on what is learned and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import stores
from lila_cues import console
from lila_cues.networks import FrozenEncoder, WeightSource, restore_encoder
from lila_train.model import checkpoint
from lila_train.model.checkpoint import Provenance
from lila_train.training.callbacks import Callback
from lila_train.training.config import TrainConfig, differences
from lila_train.training.data import PairBatch, PairSettings, load_pairs
from lila_train.training.distributed import Rank, all_reduce_mean, refuse_disagreement
from lila_train.training.objective import Losses
from lila_train.training.online import OnlineCues
from lila_train.training.run_dir import RunDir
from lila_train.training.step import Hardware, TrainStep, learning_rate, optimizer
from stores.errors import LilaError

_OF_THE_CPU = "can't allocate memory"  # PyTorch raises a plain RuntimeError there


@contextmanager
def oom_hint(settings: TrainConfig, hardware: Hardware) -> Iterator[None]:
    """Turn the error of a step that does not fit into a LilaError; the run's checkpoints stay as they are."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or _OF_THE_CPU in str(error)):
            raise
        raise LilaError(_sentence(settings, hardware)) from error


def _sentence(settings: TrainConfig, hardware: Hardware) -> str:
    pairs = settings.batch_size // hardware.rank.world_size
    parts = f" in {hardware.chunks} parts" if hardware.chunks > 1 else ""
    ways = []
    if hardware.chunks < pairs:
        ways.append(f"--chunks {min(pairs, 2 * hardware.chunks)} computes the same step in more parts")
    if settings.precision == "float32" and hardware.device.type == "cuda":
        ways.append("--precision bfloat16 halves most of it")
    ways.append("--view-size and --width make it smaller")
    return (
        f"out of memory on {hardware.device} in a step of {pairs} pairs{parts} at {settings.method.view_size} px; "
        f"{', '.join(ways)}; then go on with --resume from the last checkpoint, or begin anew in another --out"
    )


KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class StepRecord:
    """What the log keeps of a step."""

    step: int
    loss: float
    l1: float
    edge: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class LoopOptions:
    """How a run is carried out, apart from the hardware; nothing here changes its result."""

    num_workers: int = 0
    checkpoint_every: int = 1000
    observers: Sequence[Callable[[StepRecord], None]] = ()
    stopped: Callable[[], bool] = lambda: False
    callbacks: Sequence[Callback] = ()


class Trainer:
    """One run: built from its settings, advanced step by step, written and restored as a whole."""

    def __init__(
        self,
        store: stores.CueStore,
        encoder: FrozenEncoder,
        settings: TrainConfig,
        folder: RunDir,
        hardware: Hardware,
        running: LoopOptions,
    ) -> None:
        refuse_disagreement(_fingerprint(settings, store))
        self.store, self.settings, self.folder, self.running = store, settings, folder, running
        self.hardware = hardware
        self.train_step = TrainStep(encoder, settings, hardware)
        self.online = OnlineCues.of_store(store, encoder, settings.method) if settings.online else None
        self.optimizer = optimizer(self.train_step.parameters.values(), settings)
        self.step = 0

    def optimizer_step(self, batch: PairBatch) -> Losses:
        """One step of the optimiser; a cue or a loss that is no number stops the run before it reaches the weights."""
        self.optimizer.zero_grad(set_to_none=True)
        with oom_hint(self.settings, self.hardware):
            losses = self.train_step.backward(batch)
        self._refuse_no_number(torch.cat((batch.whole(), torch.isfinite(losses.total)[None])), batch)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.train_step.parameters.values(), self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        self.optimizer.step()
        self.step += 1
        return losses

    def run(self) -> bool:
        """All steps that are left, then the weights; False when stopped on the way, a checkpoint written."""
        began = time.monotonic()
        for batch in self.batches():
            losses = self.step_on(batch)
            self._log(losses, time.monotonic() - began)
            self._look()
            began = time.monotonic()
            if all_reduce_mean(torch.tensor(float(self.running.stopped()), device=self.hardware.device)) > 0:
                self.save()
                return False
            if self.step % self.running.checkpoint_every == 0 and self.step < self.settings.steps:
                self.save()
        if self.hardware.rank.is_main:
            checkpoint.write(self.folder.weights, self.train_step.decoder, self.provenance())
        return True

    def step_on(self, batch: PairBatch) -> Losses:
        """`optimizer_step` on a batch as the loader gives it."""
        return self.optimizer_step(self._complete(batch.to(self.hardware.device)))

    def batches(self) -> DataLoader[PairBatch]:
        """The batches of the steps that are left."""
        return load_pairs(
            str(self.store.path),
            self._pairs(self.settings.batch_size),
            first_step=self.step,
            last_step=self.settings.steps,
            processes=self.running.num_workers,
            rank=self.hardware.rank,
            pin=self.hardware.device.type == "cuda",
        )

    def first_pairs(self, count: int) -> PairBatch:
        """At most so many pairs of the first step's batch, whichever step is next; for looking at."""
        pairs = self._pairs(min(count, self.settings.batch_size))
        loader = load_pairs(str(self.store.path), pairs, first_step=0, last_step=1, processes=0, rank=Rank(), pin=False)
        return self._complete(next(iter(loader)).to(self.hardware.device))

    def _pairs(self, batch_size: int) -> PairSettings:
        computed = self.online.computed if self.online else frozenset()
        settings = self.settings
        return PairSettings(settings.seed, batch_size, settings.method, self.train_step.encoder.width, computed)

    def _complete(self, batch: PairBatch) -> PairBatch:
        with oom_hint(self.settings, self.hardware):
            return self.online(batch) if self.online else batch

    def _look(self) -> None:
        for monitor in self.running.callbacks if self.hardware.rank.is_main else ():
            if self.step % monitor.every == 0 or self.step == self.settings.steps:
                monitor.on_step_end(self)

    def _log(self, losses: Losses, seconds: float) -> None:
        total, l1, edge = all_reduce_mean(torch.stack((losses.total, losses.l1, losses.edge))).tolist()
        if not self.hardware.rank.is_main:
            return
        row = StepRecord(self.step - 1, total, l1, edge, learning_rate(self.step - 1, self.settings), round(seconds, 4))
        with self.folder.log.open("a") as log:
            log.write(json.dumps(asdict(row)) + "\n")
        for observe in self.running.observers:
            observe(row)

    def _refuse_no_number(self, whole: Tensor, batch: PairBatch) -> None:
        """`whole`: per pair, then for the loss. Every rank stops when one must."""
        if all_reduce_mean(whole.all().float()) == 1:
            return
        names = [self.store.clip_id(int(clip)) for clip in batch.clips]
        broken = [name for name, fine in zip(names, whole.tolist(), strict=False) if not fine]
        what = f"the loss is NaN for {', '.join(names)}" if not whole[-1] else "another rank met NaN"
        what = f"the cues of {', '.join(broken)} hold NaN" if broken else what
        raise LilaError(
            f"stopped at step {self.step}: {what}; check with lila-cues verify {self.store.path}, then go on with "
            "--resume"
        )

    def provenance(self) -> Provenance:
        """What the checkpoint says of this run."""
        return Provenance(
            encoder=self.train_step.encoder.source,
            widths=self.train_step.decoder.widths,
            step=self.step,
            settings=self.settings.to_dict(),
            store={"path": str(self.store.path), "fingerprint": self.store.fingerprint},
            versions=checkpoint.versions(),
        )

    def save(self) -> None:
        """Write a checkpoint to resume from; older ones but the last are deleted."""
        if not self.hardware.rank.is_main:
            return
        state = checkpoint.optimizer_tensors(self.optimizer, list(self.train_step.parameters))
        extra = state | self.train_step.head_tensors()
        checkpoint.write(self.folder.checkpoint(self.step), self.train_step.decoder, self.provenance(), extra)
        self.folder.prune(KEPT_CHECKPOINTS)

    def is_finished(self) -> bool:
        """Whether the folder holds the weights of this very run; another run's are refused."""
        if not self.folder.weights.exists():
            return False
        recorded = checkpoint.read(self.folder.weights).provenance
        self._refuse_other(recorded, self.folder.weights)
        return recorded.step >= self.settings.steps

    def restore(self) -> bool:
        """Go on from the newest whole checkpoint of the folder; False where there is none."""
        for path in reversed(self.folder.checkpoints()):
            try:
                found = checkpoint.read(path)
            except LilaError as error:
                console.err.print(f"passed over a checkpoint that cannot be read: {error}")
                continue
            self._refuse_other(found.provenance, path)
            self.train_step.restore(found.decoder, found.extra)
            checkpoint.restore_optimizer(self.optimizer, list(self.train_step.parameters), found.extra)
            self.step = found.provenance.step
            break
        if self.hardware.rank.is_main:
            self.folder.truncate_logs(self.step)
        return self.step > 0

    def _refuse_other(self, recorded: Provenance, path: Path) -> None:
        old = TrainConfig.from_dict(dict(recorded.settings))
        if self.settings.schedule == "constant":
            old = replace(old, steps=self.settings.steps)
        found = differences(old, self.settings)
        if recorded.store["fingerprint"] != self.store.fingerprint:
            found.append(f"the store: {recorded.store['path']}, not {self.store.path}")
        if found:
            raise LilaError(
                f"{path} is of a run with other settings ({'; '.join(found)}); pass those, or another --out"
            )


def _fingerprint(settings: TrainConfig, store: stores.CueStore) -> str:
    told = json.dumps([settings.to_dict(), store.fingerprint], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def encoder_of_store(store: stores.CueStore, weights: Path | None, device: torch.device) -> FrozenEncoder:
    """The encoder whose features the store holds: it is the one that is decoded from."""
    return restore_encoder(WeightSource.from_dict(store.provenance["networks"]["encoder"]), weights, device)
