"""A training step on a GPU: the CPU's loss and gradients, also in half precision, compiled and in parts."""

from __future__ import annotations

import pytest
import torch

import stores
from lila_train.training.config import TrainConfig
from lila_train.training.distributed import Rank
from lila_train.training.step import TrainStep
from tests.lila_train.training import world
from tests.lila_train.training.test_step import SETTINGS, backward, batch_of, gradients, step_of

pytestmark = pytest.mark.gpu
GPU = Rank(device=torch.device("cuda"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return world.build(tmp_path_factory.mktemp("world") / "cues.zarr")


def on_gpu(settings: TrainConfig, **how: object) -> TrainStep:
    train_step = step_of(settings, GPU, **how)
    train_step.encoder.to(GPU.device)
    return train_step


@pytest.mark.parametrize("how", [{}, {"device_batch_size": 2}, {"compile": True}], ids=["plain", "parts", "compiled"])
@pytest.mark.parametrize("objective", ["in-context", "erm"])
def test_a_step_equals_that_on_the_cpu(store: stores.CueStore, how: dict[str, object], objective: str) -> None:
    settings = SETTINGS.replace(objective=objective)  # type: ignore[arg-type]
    batch = batch_of(store, settings)
    here = step_of(settings)
    there = on_gpu(settings, **how)
    expected, found = backward(here, batch), backward(there, batch_of(store, settings, GPU))
    torch.testing.assert_close(found.cpu(), expected, rtol=5e-3, atol=0)
    for name, gradient in gradients(there).items():
        own = gradients(here)[name]
        assert (gradient.cpu() - own).norm() <= 0.05 * own.norm() + 1e-6, name


def test_bfloat16_stays_close(store: stores.CueStore) -> None:
    batch = batch_of(store, SETTINGS, GPU)
    whole, half = (backward(on_gpu(SETTINGS.replace(precision=p)), batch) for p in ("float32", "bfloat16"))
    torch.testing.assert_close(half, whole, rtol=0.05, atol=0)
