"""The model to score, as given on the command line: trained weights, an encoder by name, or a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lila_cues.networks import load_encoder
from lila_cues.networks.weights import file_sha256, random_seed
from lila_train.evaluation.baselines import BaselineOptions, find
from lila_train.evaluation.models import ENCODER, EncoderAlone, GridModel, LilaModel, encoder_identity
from lila_train.model.lila import load
from stores.errors import LilaError


@dataclass(frozen=True)
class ModelSpec:
    """Model options. `weights` is a file of a run, a published file, or a published model's name."""

    weights: Path | None = None
    encoder: str | None = None
    encoder_weights: Path | None = None
    baseline: str | None = None
    baseline_repo: Path | None = None
    baseline_weights: Path | None = None

    def __post_init__(self) -> None:
        named = [self.weights is not None, self.baseline is not None, self.encoder is not None]
        if named not in ([True, False, False], [False, True, False], [False, False, True], [False, True, True]):
            found = "none" if not any(named) else "two"
            raise LilaError(
                f"expected one model to score, found {found}; pass --weights FILE of a run, or --encoder NAME, or "
                "--baseline NAME (with --encoder NAME below it)"
            )
        if self.baseline is None and (self.baseline_repo or self.baseline_weights):
            raise LilaError(
                "expected --baseline NAME beside --baseline-repo and --baseline-weights, found none; add it"
            )
        files = [(self.encoder_weights, "--encoder-weights")] if random_seed(self.encoder_weights) is None else []
        if self.weights is not None and (len(self.weights.parts) > 1 or self.weights.suffix):  # not a published name
            files.append((self.weights, "--weights"))
        for path, option in files:
            if path is not None and not path.is_file():
                raise LilaError(f"expected a weight file at {path}, found none; give its place with {option}")

    def heads(self) -> tuple[str, ...]:
        """Return the scored feature maps."""
        if self.baseline is not None:
            return find(self.baseline).heads
        return (ENCODER,) if self.weights is None else (ENCODER, LilaModel.head)

    def identity(self) -> dict[str, Any]:
        """Return what determines the features: hashes of the files, else the names that a hub resolves."""
        if self.baseline is not None:
            return find(self.baseline).identity(self._baseline_options())
        if self.weights is None:
            return encoder_identity(str(self.encoder), self.encoder_weights)
        is_file = self.weights.is_file()
        identity = {"weights_sha256": file_sha256(self.weights)} if is_file else {"weights": str(self.weights)}
        if self.encoder_weights is not None:
            identity["encoder_weights_sha256"] = file_sha256(self.encoder_weights)
        return identity

    def load(self, device: torch.device) -> GridModel:
        """Load the model; LilaError where weights, code or hub are not available."""
        if self.baseline is not None:
            return find(self.baseline).load(self._baseline_options(), device)
        if self.weights is None:
            return EncoderAlone(load_encoder(str(self.encoder), self.encoder_weights, device), device)
        lila = load(self.weights, device=device, encoder_weights=self.encoder_weights)
        return LilaModel(lila.encoder, device, lila)

    def _baseline_options(self) -> BaselineOptions:
        return BaselineOptions(self.encoder, self.encoder_weights, self.baseline_repo, self.baseline_weights)
