"""What is looked at while a run is under way: curves for TensorBoard, pictures of cues and features, scores.

A monitor reads a trainer and writes into the run's folder; none of them changes the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lila_train.training.trainer import Trainer


@runtime_checkable
class Monitor(Protocol):
    """Called on the leading rank after every `every`-th step, and after the last."""

    @property
    def every(self) -> int:
        """Steps between looks."""
        ...

    def look(self, trainer: Trainer) -> None:
        """See to the trainer as it stands after `trainer.step` steps."""
        ...
