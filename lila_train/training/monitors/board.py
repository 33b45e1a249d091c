"""The run's curves and pictures for TensorBoard."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from lila_train.training.trainer import StepRecord


class Board:
    """Writes event files under a folder; a resumed run adds to it, and what it computes again replaces what was there.

    `first_step`: events from that step on, left by a run that was killed, are marked as replaced.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def losses(self, row: StepRecord) -> None:
        """A step's losses, its learning rate and its seconds."""
        values = asdict(row)
        step = values.pop("step")
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def score(self, name: str, value: float, step: int) -> None:
        """A figure of a protocol."""
        self._writer.add_scalar(f"score/{name}", value, step)

    def picture(self, name: str, image: UInt8[np.ndarray, "h w 3"], step: int) -> None:
        """A picture, kept as PNG inside the event file."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still held."""
        self._writer.close()
