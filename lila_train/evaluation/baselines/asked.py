"""What the user asked of a baseline, and what every baseline must offer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from lila_cues.networks.weights import file_sha256, random_seed
from lila_train.evaluation.models import GridModel
from stores.errors import LilaError

WEIGHTS_OPTION = "--baseline-weights"


@dataclass(frozen=True)
class Asked:
    """The options beside a baseline's name; what is None is the baseline's own choice.

    Weights are paths, or "random" or "random:SEED" for untrained ones, as encoders take them.
    """

    encoder: str | None = None
    encoder_weights: Path | str | None = None
    repository: Path | None = None
    weights: Path | str | None = None

    def weights_identity(self) -> dict[str, Any]:
        """What decides the figures of the weights given: the file's hash, else the words."""
        if self.weights is None:
            return {}
        if random_seed(self.weights) is not None:
            return {"baseline_weights": str(self.weights)}
        path = Path(self.weights)
        if path.is_dir():
            return {"baseline_weights_sha256": {file.name: file_sha256(file) for file in sorted(path.glob("*.*"))}}
        if not path.is_file():
            raise LilaError(
                f"expected the baseline's weights at {path}, found none; give their place with {WEIGHTS_OPTION}"
            )
        return {"baseline_weights_sha256": file_sha256(path)}


@runtime_checkable
class Baseline(Protocol):
    """A model of somebody else's, by name."""

    @property
    def heads(self) -> tuple[str, ...]:
        """What is scored: the encoder alone, and the map by the baseline's name where it has one."""
        ...

    def identity(self, asked: Asked) -> dict[str, Any]:
        """What decides the figures, without loading anything."""
        ...

    def load(self, asked: Asked, device: torch.device) -> GridModel:
        """The model on the device; LilaError where code or weights are missing or do not fit."""
        ...
