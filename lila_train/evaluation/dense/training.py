"""Dense protocols, and the training of their probes on a frozen model: no dropped batch, last epoch, resumable."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from lila_cues.devices import usable_cores
from lila_cues.prefetch import batched, map_ordered
from lila_train.evaluation.dense.data import Augmentation, DenseData, Flip, ValView, View, generator
from lila_train.evaluation.dense.probes import BuildProbe, features_of
from lila_train.evaluation.models import GridModel
from lila_train.outputs import Json
from stores.atomic import atomic_write
from stores.errors import LilaError

T = TypeVar("T")
R = TypeVar("R")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
BATCHES_AHEAD = 3
FLOOR = 0.01  # of Probe3D's schedule, at both ends
SCHEDULES: dict[str, Callable[[float], float]] = {  # by the share of the steps after the warm-up that is done
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "quarter_cosine": lambda done: FLOOR + (1 - FLOOR) * math.cos(0.5 * math.pi * done),
}


@runtime_checkable
class Sums(Protocol):
    """Sums over images, from which metrics are divided once: parts add with +, and JSON keeps them."""

    def __add__(self, other: Any) -> Any: ...

    def metrics(self) -> dict[str, float | None]: ...  # fractions, counts, or in the unit of the name; None: unmeasured

    def to_json(self) -> Json: ...  # the protocol's `from_json` is the inverse


@dataclass(frozen=True)
class ProbeRecipe:
    """How a probe is trained. An epoch passes `repeats` times over the train set; `iterations` may end it early."""

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    optimizer: str = "adamw"
    schedule: str = "constant"
    repeats: int = 1
    iterations: int | None = None
    warmup_epochs: float = 0.0  # linear

    def steps_per_epoch(self, n_examples: int) -> int:
        """Return the batches of an epoch, the last of which may be smaller."""
        return math.ceil(n_examples * self.repeats / self.batch)

    def steps(self, n_examples: int) -> int:
        """Return the optimizer steps of the run."""
        return self.iterations or self.epochs * self.steps_per_epoch(n_examples)

    def rate(self, step: int, n_examples: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warmup, total = self.warmup_epochs * self.steps_per_epoch(n_examples), self.steps(n_examples)
        if step < warmup:
            return self.lr * (FLOOR + (1 - FLOOR) * step / warmup)
        return self.lr * SCHEDULES[self.schedule]((step - warmup) / max(1, total - warmup))


@dataclass(frozen=True)
class DenseProtocol:
    """What a protocol fixes: the probe, its training, and how predictions are measured and drawn."""

    name: str
    build: BuildProbe
    n_outputs: int
    recipe: ProbeRecipe
    train_view: Augmentation
    val_view: ValView
    loss: Callable[[Tensor, Tensor], Tensor]  # outputs, targets
    flip: Flip
    measure: Callable[[Tensor, Tensor], Sums]  # targets, outputs
    from_json: Callable[[Json], Sums]
    draw: Callable[[Tensor], UInt8[np.ndarray, "h w *rgb"]]  # a target or an output as class labels or RGB
    slide: tuple[int, int] | None = None  # window and stride in pixels, in place of the center square

    def settings(self) -> dict[str, Any]:
        """Return all settings but the seed as JSON values."""
        build = self.build.func if isinstance(self.build, partial) else self.build
        return {
            "probe": getattr(build, "__name__", str(build)),
            "outputs": self.n_outputs,
            **asdict(self.recipe),
            "train_view": {"kind": type(self.train_view).__name__, **asdict(self.train_view)},
            "val_view": asdict(self.val_view),
            "slide": self.slide,
        }


def train(
    probe: nn.Module,
    model: GridModel,
    head: str,
    protocol: DenseProtocol,
    data: DenseData,
    seed: int,
    checkpoint: Path,
    fingerprint: str,
    advance: Callable[[], None],
) -> None:
    """Train to the last step, from the checkpoint if there is one; LilaError if that has another fingerprint.

    `advance` is called per step, done or skipped.
    """
    recipe, n_examples = protocol.recipe, len(data.train)
    optimizer = OPTIMIZERS[recipe.optimizer](probe.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    first_epoch = 0
    if checkpoint.is_file():
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        if state["fingerprint"] != fingerprint:
            raise LilaError(
                f"expected a probe of this evaluation in {checkpoint}, found one of another; pass another --out"
            )
        probe.load_state_dict(state["probe"])
        optimizer.load_state_dict(state["optimizer"])
        first_epoch = int(state["epochs"])
    total, per_epoch = recipe.steps(n_examples), recipe.steps_per_epoch(n_examples)
    for _ in range(min(first_epoch * per_epoch, total)):
        advance()
    probe.train()
    for epoch in range(first_epoch, math.ceil(total / per_epoch)):
        for step, views in enumerate(train_batches(protocol, data, seed, epoch), start=epoch * per_epoch):
            if step == total:
                break
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, n_examples)
            images, targets = (torch.stack(part).to(model.device) for part in zip(*views, strict=True))
            optimizer.zero_grad()
            protocol.loss(probe(features_of(model, head, images)), targets).backward()
            optimizer.step()
            advance()
        state = {"fingerprint": fingerprint, "epochs": epoch + 1, "probe": probe.state_dict()}
        buffer = io.BytesIO()  # torch.save reports a full disk as an internal error
        torch.save(state | {"optimizer": optimizer.state_dict()}, buffer)
        atomic_write(buffer.getvalue(), checkpoint)


def train_batches(protocol: DenseProtocol, data: DenseData, seed: int, epoch: int) -> Iterator[list[View]]:
    """Return the views of an epoch by batch; order and crops are functions of seed, epoch and position in it."""
    count, batch = len(data.train) * protocol.recipe.repeats, protocol.recipe.batch
    order = generator(seed, epoch).permutation(count)

    def view(position: int) -> View:
        example = data.read(data.train[int(order[position]) % len(data.train)])
        return protocol.train_view.apply(example, protocol.flip, generator(seed, epoch, position + 1))

    return read_batches(view, range(count), batch)


def read_batches(view: Callable[[T], R], items: Iterable[T], size: int) -> Iterator[list[R]]:
    """Yield views in batches of `size`, read by one thread per core, `BATCHES_AHEAD` batches ahead."""
    return batched(map_ordered(view, items, BATCHES_AHEAD * size, usable_cores()), size)
