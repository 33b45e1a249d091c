"""What to do when memory runs out: a sentence that names the options, in place of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lila_train.training.learner import Hardware
from lila_train.training.settings import TrainSettings
from stores.errors import LilaError

_OF_THE_CPU = "can't allocate memory"  # PyTorch raises a plain RuntimeError there


@contextmanager
def explained_shortage(settings: TrainSettings, hardware: Hardware) -> Iterator[None]:
    """Turn the error of a step that does not fit into a LilaError; the run's checkpoints stay as they are."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or _OF_THE_CPU in str(error)):
            raise
        raise LilaError(_sentence(settings, hardware)) from error


def _sentence(settings: TrainSettings, hardware: Hardware) -> str:
    pairs = settings.batch_size // hardware.share.ranks
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
