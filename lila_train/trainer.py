"""The training loop: pairs from the store, one step of the method, AdamW on the decoder alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import stores
from lila_cues.networks import FrozenEncoder, WeightSource, restore_encoder
from lila_train import checkpoint
from lila_train.checkpoint import Provenance
from lila_train.decoder import Decoder, DecoderWidths
from lila_train.method import Losses, cut_views, in_context_losses
from lila_train.pairs import PairBatch, PairSettings, Share, load_pairs
from lila_train.run_folder import RunFolder
from lila_train.settings import TrainSettings, differences
from stores import console
from stores.errors import LilaError

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Running:
    """How a run is carried out; nothing here changes its result."""

    device: torch.device
    loader_processes: int = 0
    checkpoint_every: int = 1000
    on_step: Callable[[int, Losses], None] = lambda _step, _losses: None


class Trainer:
    """One run: built from its settings, advanced step by step, written and restored as a whole."""

    def __init__(
        self,
        store: stores.CueStore,
        encoder: FrozenEncoder,
        settings: TrainSettings,
        folder: RunFolder,
        running: Running,
    ) -> None:
        self.store, self.encoder, self.settings, self.folder, self.running = store, encoder, settings, folder, running
        torch.manual_seed(settings.seed)
        self.decoder = Decoder(DecoderWidths.of_encoder(encoder.width, settings.decoder_width)).to(running.device)
        trained = {name: p for name, p in self.decoder.named_parameters() if p.requires_grad}
        self.names = dict(enumerate(trained))
        self.optimiser = torch.optim.AdamW(
            trained.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.step = 0

    def features_of(self, images: Tensor) -> Tensor:
        """Pixel features at the size of the images; gradients reach the decoder only."""
        return self.decoder(self.encoder(images), (images.shape[-2], images.shape[-1]))

    def losses(self, batch: PairBatch) -> Losses:
        """The method's losses on one batch, which is on the device."""
        method = self.settings.method
        context, query = cut_views(batch, method.view_size)
        return in_context_losses(self.features_of, context, query, method)

    def advance(self, batch: PairBatch) -> Losses:
        """One step of the optimiser; a cue or a loss that is no number stops the run before it reaches the weights."""
        losses = self.losses(batch)
        self._refuse_no_number(torch.cat((batch.whole(), torch.isfinite(losses.total)[None])).tolist(), batch)
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        self.optimiser.step()
        self.step += 1
        return losses

    def _refuse_no_number(self, whole: list[bool], batch: PairBatch) -> None:
        if all(whole):
            return
        names = [self.store.clip_id(int(clip)) for clip in batch.clips]
        broken = [name for name, fine in zip(names, whole, strict=False) if not fine]
        what = f"the cues of {', '.join(broken)} hold NaN" if broken else f"the loss is NaN for {', '.join(names)}"
        raise LilaError(
            f"stopped at step {self.step}: {what}; check with lila-cues verify {self.store.path}, then go on with "
            "--resume"
        )

    def run(self) -> None:
        """All steps that are left, then the weights."""
        with self.folder.log.open("a") as log:
            for batch in self._batches():
                started = time.monotonic()
                losses = self.advance(batch.to(self.running.device))
                log.write(_row(self.step - 1, losses, time.monotonic() - started))
                log.flush()
                self.running.on_step(self.step, losses)
                if self.step % self.running.checkpoint_every == 0 and self.step < self.settings.steps:
                    self.save()
        checkpoint.write(self.folder.weights, self.decoder, self.provenance())

    def _batches(self) -> torch.utils.data.DataLoader[PairBatch]:
        method = self.settings.method
        return load_pairs(
            str(self.store.path),
            PairSettings(self.settings.seed, self.settings.batch_size, method.max_gap, method.channels, method.views),
            first_step=self.step,
            last_step=self.settings.steps,
            processes=self.running.loader_processes,
            share=Share(),
            pin=self.running.device.type == "cuda",
        )

    def provenance(self) -> Provenance:
        """What the checkpoint says of this run."""
        return Provenance(
            encoder=self.encoder.source,
            widths=self.decoder.widths,
            step=self.step,
            settings=self.settings.to_dict(),
            store={"path": str(self.store.path), "fingerprint": self.store.fingerprint},
            versions=checkpoint.versions(),
        )

    def save(self) -> None:
        """Write a checkpoint to resume from; older ones but the last are deleted."""
        optimiser = checkpoint.optimiser_tensors(self.optimiser, self.names)
        checkpoint.write(self.folder.checkpoint(self.step), self.decoder, self.provenance(), optimiser)
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
                console.err.print(f"skipped a checkpoint that cannot be read: {error}")
                continue
            self._refuse_other(found.provenance, path)
            self.decoder.load_state_dict(dict(found.decoder))
            checkpoint.restore_optimiser(self.optimiser, self.names, found.optimiser)
            self.step = found.provenance.step
            self.folder.truncate_log(self.step)
            return True
        self.folder.truncate_log(0)
        return False

    def _refuse_other(self, recorded: Provenance, path: Path) -> None:
        old = replace(TrainSettings.from_dict(dict(recorded.settings)), steps=self.settings.steps)
        found = differences(old, self.settings)
        if recorded.store["fingerprint"] != self.store.fingerprint:
            found.append(f"the store: {recorded.store['path']}, not {self.store.path}")
        if found:
            raise LilaError(
                f"{path} is of a run with other settings ({'; '.join(found)}); pass those, or another --out"
            )


def _row(step: int, losses: Losses, seconds: float) -> str:
    values = {"step": step, "loss": losses.total.item(), "l1": losses.l1.item(), "edge": losses.edge.item()}
    return json.dumps(values | {"seconds": round(seconds, 4)}) + "\n"


def encoder_of_store(store: stores.CueStore, weights: Path | None, device: torch.device) -> FrozenEncoder:
    """The encoder whose features the store holds: it is the one that is decoded from."""
    return restore_encoder(WeightSource.from_dict(store.provenance["networks"]["encoder"]), weights, device)
