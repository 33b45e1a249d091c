"""Training a probe on the features of a frozen model: no dropped last batch, the last epoch counts, resumable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lila_cues.prefetch import in_batches
from lila_train.evaluation.dense.data import Augmentation, DenseData, Mirror, generator, stacked
from lila_train.evaluation.dense.probes import features_of
from lila_train.evaluation.models import GridModel
from stores.atomic import atomic_path
from stores.errors import LilaError

OPTIMISERS: dict[str, type[torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
FLOOR = 0.01  # of Probe3D's schedule, at both of its ends
SCHEDULES: dict[str, Callable[[float], float]] = {  # by the share that is done of what follows the warm-up
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "quarter_cosine": lambda done: FLOOR + (1 - FLOOR) * math.cos(0.5 * math.pi * done),
}

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ProbeRecipe:
    """How a probe is trained. An epoch goes `repeats` times through the train set; `iterations` ends it in between."""

    epochs: int
    batch: int
    lr: float
    weight_decay: float
    optimizer: str = "adamw"
    schedule: str = "constant"
    repeats: int = 1
    iterations: int | None = None
    warmup_epochs: float = 0.0  # in which the rate rises linearly

    def steps_per_epoch(self, n_examples: int) -> int:
        """Batches, the last of which may be smaller."""
        return math.ceil(n_examples * self.repeats / self.batch)

    def steps(self, n_examples: int) -> int:
        """Optimiser's steps of the whole run."""
        whole = self.epochs * self.steps_per_epoch(n_examples)
        return whole if self.iterations is None else self.iterations

    def rate(self, step: int, n_examples: int) -> float:
        """The learning rate of a step, counted from 0: linear warm-up, then the schedule."""
        warm, total = self.warmup_epochs * self.steps_per_epoch(n_examples), self.steps(n_examples)
        if step < warm:
            return self.lr * (FLOOR + (1 - FLOOR) * step / warm)
        return self.lr * SCHEDULES[self.schedule]((step - warm) / max(1, total - warm))

    def n_epochs(self, n_examples: int) -> int:
        """Epochs that the run begins; `iterations` may end the last of them in between."""
        return math.ceil(self.steps(n_examples) / self.steps_per_epoch(n_examples))


@dataclass(frozen=True)
class Training:
    """What to train on, how, and from which seed."""

    data: DenseData
    recipe: ProbeRecipe
    view: Augmentation
    mirror: Mirror
    loss: Loss
    seed: int

    def batches(self, epoch: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """The views of an epoch: order and crops are functions of seed, epoch and place in it."""
        count = len(self.data.train) * self.recipe.repeats
        order = generator(self.seed, epoch).permutation(count)
        places = (
            list(range(start, min(start + self.recipe.batch, count))) for start in range(0, count, self.recipe.batch)
        )
        return in_batches(lambda place: self._view(int(order[place]), epoch, place), places)

    def _view(self, item: int, epoch: int, place: int) -> tuple[Tensor, Tensor]:
        example = self.data.read(self.data.train[item % len(self.data.train)])
        return self.view.taken(example, self.mirror, generator(self.seed, epoch, place + 1))


def train(
    probe: nn.Module,
    model: GridModel,
    head: str,
    training: Training,
    checkpoint: Path,
    fingerprint: str,
    advance: Callable[[], None],
) -> None:
    """Train to the last step, from the checkpoint if there is one; `advance` is called per step, done or skipped."""
    recipe, n_examples = training.recipe, len(training.data.train)
    optimizer = OPTIMISERS[recipe.optimizer](
        probe.parameters(),
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,  # type: ignore[call-arg]
    )
    total, per_epoch = recipe.steps(n_examples), recipe.steps_per_epoch(n_examples)
    begin = _restore(checkpoint, fingerprint, probe, optimizer)
    for _ in range(min(begin * per_epoch, total)):
        advance()
    probe.train()
    for epoch in range(begin, recipe.n_epochs(n_examples)):
        for step, views in enumerate(training.batches(epoch), start=epoch * per_epoch):
            if step == total:
                break
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, n_examples)
            images, targets = stacked(views, model.device)
            optimizer.zero_grad()
            training.loss(probe(features_of(model, head, images)), targets).backward()
            optimizer.step()
            advance()
        _save(checkpoint, fingerprint, epoch + 1, probe, optimizer)


def _save(path: Path, fingerprint: str, epochs: int, probe: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = {"fingerprint": fingerprint, "epochs": epochs, "probe": probe.state_dict()}
    with atomic_path(path) as temporary:
        torch.save(state | {"optimiser": optimizer.state_dict()}, temporary)


def _restore(path: Path, fingerprint: str, probe: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Epochs done."""
    if not path.is_file():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise LilaError(f"expected a probe of this evaluation in {path}, found one of another; pass another --out")
    probe.load_state_dict(state["probe"])
    optimizer.load_state_dict(state["optimiser"])
    return int(state["epochs"])
