"""The model to score, as given on the command line: trained weights, an encoder by name, or a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lila_cues.networks import load_encoder
from lila_cues.networks.weights import random_seed
from lila_train.evaluation.baselines import BaselineOptions, find
from lila_train.evaluation.models import ENCODER, EncoderAlone, GridModel, LilaModel
from lila_train.model import released
from lila_train.model.lila import load
from stores.errors import LilaError


@dataclass(frozen=True)
class ModelSpec(BaselineOptions):
    """Model options. `weights` is a run's folder or file, a published file, or a published name."""

    weights: Path | None = None
    baseline: str | None = None

    def __post_init__(self) -> None:
        names_encoder = self.weights is not None and self.weights.suffix == ".pt"  # a decoder alone, perhaps
        named = [self.weights is not None, self.baseline is not None, self.encoder is not None and not names_encoder]
        if named not in ([True, False, False], [False, True, False], [False, False, True], [False, True, True]):
            found = "none" if not any(named) else "two"
            raise LilaError(
                f"expected one model to score, found {found}; pass --weights RUN, or --encoder NAME, or "
                "--baseline NAME (with --encoder NAME below it)"
            )
        if self.baseline is None and (self.baseline_repo or self.baseline_weights):
            raise LilaError(
                "expected --baseline NAME beside --baseline-repo and --baseline-weights, found none; add it"
            )
        path = self.encoder_weights
        if path is not None and random_seed(path) is None and not Path(path).is_file():
            raise LilaError(f"expected a weight file at {path}, found none; give its place with --encoder-weights")
        if self.weights is not None and str(self.weights) not in released.RELEASED_FILES:
            released.find(self.weights)

    def heads(self) -> tuple[str, ...]:
        """Return the scored feature maps."""
        if self.baseline is not None:
            return find(self.baseline).heads
        return (ENCODER,) if self.weights is None else (ENCODER, LilaModel.head)

    def identity(self) -> dict[str, Any]:
        """Return what determines the features: hashes of the files, else the names that a hub resolves."""
        if self.baseline is not None:
            return find(self.baseline).identity(self)
        if self.weights is None:
            return {"encoder": str(self.encoder)} | released.encoder_weights_identity(self.encoder_weights)
        return released.identity(self.weights, self.encoder_weights, self.encoder)

    def load(self, device: torch.device) -> GridModel:
        """Load the model; LilaError where weights, code or hub are not available."""
        if self.baseline is not None:
            return find(self.baseline).load(self, device)
        if self.weights is None:
            return EncoderAlone(load_encoder(str(self.encoder), self.encoder_weights, device), device)
        lila = load(self.weights, device=device, encoder=self.encoder, encoder_weights=self.encoder_weights)
        about = {"weights": str(self.weights)} | ({"step": lila.provenance.step} if lila.provenance else {})
        return LilaModel(lila.encoder, device, lila, about)
