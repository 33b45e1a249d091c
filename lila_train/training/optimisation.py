"""How the weights move: AdamW and its learning rate over a run (docs/method.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from lila_train.training.settings import TrainSettings


def optimiser(parameters: Iterable[nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over what is learned."""
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Of step `step`: linear warm-up from 1/w to all of it, then constant, or half a cosine down to 0 at the end."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (1 + math.cos(math.pi * done)) / 2
