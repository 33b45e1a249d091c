"""Each row changes exactly the settings that it declares, and the loss."""

from __future__ import annotations

import pytest
import torch

import stores
from lila_train.training.ablations import FULL, ROWS, Ablation, rows
from lila_train.training.config import TrainConfig
from lila_train.training.step import TrainStep
from stores.errors import LilaError
from tests.lila_train.training import world
from tests.lila_train.training.test_step import SETTINGS, backward, batch_of

CHANGED = [row for row in ROWS.values() if row is not FULL]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stores.CueStore:
    return world.build(tmp_path_factory.mktemp("world") / "cues.zarr")


def loss_of(store: stores.CueStore, settings: TrainConfig) -> float:
    batches = [batch_of(store, settings, step=step) for step in range(3)]
    train_step = TrainStep(world.encoder(), settings)
    return float(torch.stack([backward(train_step, batch) for batch in batches]).mean())


@pytest.mark.parametrize("row", CHANGED, ids=lambda row: row.name)
def test_a_row_changes_exactly_its_fields_and_the_loss(store: stores.CueStore, row: Ablation) -> None:
    settings = SETTINGS.replace(**row.changes)
    found = {line.split(":")[0] for line in SETTINGS.differences(settings)}
    assert found == set(row.changes)
    assert loss_of(store, settings) != loss_of(store, SETTINGS)


def test_the_full_row_changes_nothing() -> None:
    assert SETTINGS.replace(**FULL.changes) == SETTINGS
    assert not FULL.changes


def test_rows_are_chosen_by_name_or_table() -> None:
    assert len(rows("all")) == 10
    assert [row.name for row in rows("erm")] == ["full", "erm"]
    assert len(rows("cues")) == 5
    assert len(rows("components,with-flow")) == 7
    with pytest.raises(LilaError, match="expected --rows to name"):
        rows("nothing")


def test_rows_of_ones_own_vary_settings() -> None:
    full, lr, both = rows("full", ["lr=3e-4", "crop_size=224 batch_size=1", "lr=3e-4"])
    assert full is FULL
    assert lr.published.davis_knn is None
    changed = SETTINGS.replace(**both.changes)
    assert (changed.crop_size, changed.batch_size, SETTINGS.replace(**lr.changes).lr) == (224, 1, 3e-4)
    for wrong in ("", "lr", "rate=1", "steps=5", "seed=1"):
        with pytest.raises(LilaError, match=r"expected .*--vary"):
            rows("full", [wrong])


def test_differences_name_the_setting_and_both_values() -> None:
    assert SETTINGS.differences(SETTINGS.replace(ridge=0.2)) == ["ridge: 0.1, not 0.2"]
