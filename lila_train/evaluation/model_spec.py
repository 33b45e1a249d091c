"""Which model is asked for, before anything is loaded: weights of ours, an encoder by name, or a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lila_cues.networks.weights import file_sha256, random_seed
from lila_train.evaluation.baselines import Baseline, BaselineOptions, find
from lila_train.evaluation.models import ENCODER, EncoderAlone, GridModel, LilaModel, encoder_identity
from stores.errors import LilaError


@dataclass(frozen=True)
class ModelSpec:
    """The options of the command line. `weights` is a file of ours or a published one, or a published model's name."""

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
        self._check_file(self.encoder_weights, "--encoder-weights")
        if self.weights is not None and _looks_like_a_path(self.weights):
            self._check_file(self.weights, "--weights")

    def heads(self) -> tuple[str, ...]:
        """What a run with this model scores."""
        if self.baseline is not None:
            return self._baseline().heads
        return (ENCODER,) if self.weights is None else (ENCODER, LilaModel.head)

    def identity(self) -> dict[str, Any]:
        """What decides the figures: hashes of the files, else the names that a hub resolves."""
        if self.baseline is not None:
            return self._baseline().identity(self._asked())
        if self.encoder is not None:
            return encoder_identity(self.encoder, self.encoder_weights)
        assert self.weights is not None
        chosen = (
            {"weights_sha256": file_sha256(self.weights)} if self.weights.is_file() else {"weights": str(self.weights)}
        )
        if self.encoder_weights is not None:
            chosen["encoder_weights_sha256"] = file_sha256(self.encoder_weights)
        return chosen

    def load(self, device: torch.device) -> GridModel:
        """The model on the device, ready to run; LilaError where weights, code or hub are out of reach."""
        if self.baseline is not None:
            return self._baseline().load(self._asked(), device)
        if self.weights is not None:
            from lila_train.model.lila import load

            return LilaModel(load(self.weights, device=device, encoder_weights=self.encoder_weights), device)
        from lila_cues.networks import load_encoder

        return EncoderAlone(load_encoder(str(self.encoder), self.encoder_weights, device), device)

    def _baseline(self) -> Baseline:
        assert self.baseline is not None
        return find(self.baseline)

    def _asked(self) -> BaselineOptions:
        return BaselineOptions(self.encoder, self.encoder_weights, self.baseline_repo, self.baseline_weights)

    @staticmethod
    def _check_file(path: Path | None, option: str) -> None:
        if path is not None and not path.is_file() and (option == "--weights" or random_seed(path) is None):
            raise LilaError(f"expected a weight file at {path}, found none; give its place with {option}")


def _looks_like_a_path(weights: Path) -> bool:
    """A published model's name is one word without a suffix."""
    return len(weights.parts) > 1 or bool(weights.suffix)
