"""Surface normals by Probe3D's protocol: loss, schedule, head, and a run on real frames."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lila_train.evaluation import harness
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense import normals
from lila_train.evaluation.dense.data import CenterView, Example, generator
from lila_train.evaluation.dense.normals import NYU_PROBE3D, uncertain_angular_loss
from lila_train.evaluation.dense.probes import DptProbe, FrozenFeatures
from lila_train.evaluation.dense.task import dense_task
from lila_train.evaluation.model_spec import ModelSpec
from tests.lila_train.evaluation.dense.test_normals import write_real_frames
from tests.lila_train.evaluation.small_models import write_checkpoint


def test_the_loss_weighs_the_angle_by_the_concentration():
    target = torch.zeros(1, 4, 1, 2)
    target[0, 2], target[0, 3, 0, 0] = 1, 1  # known in the first pixel alone
    for raw, kappa in ((0.5, 1.51), (-1.0, math.exp(-1) - 1 + 1.01)):
        outputs = torch.tensor([0.0, 1.0, 0.0, raw]).view(1, 4, 1, 1).repeat(1, 1, 1, 2)
        expected = math.log(1 + math.exp(-kappa * math.pi)) - math.log(kappa**2 + 1) + kappa * math.pi / 2
        assert uncertain_angular_loss(outputs, target).item() == pytest.approx(expected, rel=1e-4)


def test_linear_warm_up_then_a_quarter_cosine():
    recipe, n_examples = NYU_PROBE3D.recipe, 80  # 10 steps an epoch
    assert recipe.rate(0, n_examples) == pytest.approx(5e-6)
    assert recipe.rate(15, n_examples) == pytest.approx(5e-4)
    middle = 15 + (100 - 15) / 2
    assert recipe.rate(round(middle), n_examples) == pytest.approx(
        5e-4 * (0.01 + 0.99 * math.cos(math.pi / 4)), rel=0.01
    )
    rates = [recipe.rate(step, n_examples) for step in range(100)]
    assert np.diff(rates[:16]).min() > 0 > np.diff(rates[15:]).max()


def test_the_dpt_head_depends_on_all_four_blocks_and_the_map():
    draw = torch.Generator().manual_seed(0)
    taps = tuple(torch.randn(1, 6, 3, 4, generator=draw) for _ in range(4))
    pixels = torch.randn(1, 5, 24, 32, generator=draw)
    probe = DptProbe(6, 5, 4, width=8)
    expected = probe(FrozenFeatures((24, 32), taps, pixels))
    assert expected.shape == (1, 4, 24, 32)
    for n in range(4):
        changed = (*taps[:n], taps[n] + 1, *taps[n + 1 :])
        assert not torch.equal(probe(FrozenFeatures((24, 32), changed, pixels)), expected)
    assert not torch.equal(probe(FrozenFeatures((24, 32), taps, pixels + 1)), expected)


def test_a_training_view_is_the_center_sometimes_zoomed_or_recolored():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[0], image[1] = torch.arange(30) * 8, (torch.arange(20) * 8)[:, None]
    example = Example(image, image[:1].float())
    plain = CenterView(20, zoom=0.0, recolor=0.0)
    taken, target = plain.apply(example, torch.flip, generator(0, 0))
    assert target[0, 0].tolist() == [8.0 * n for n in range(5, 25)]
    torch.testing.assert_close(taken[0] * 255, target[0])
    zooms = [CenterView(20, recolor=0.0).apply(example, torch.flip, generator(0, n))[1] for n in range(40)]
    assert 10 < sum(not torch.equal(zoom, target) for zoom in zooms) < 32
    assert all(zoom.min() >= target.min() and zoom.max() <= target.max() for zoom in zooms)
    colors = [CenterView(20, zoom=0.0).apply(example, torch.flip, generator(0, n)) for n in range(40)]
    assert all(torch.equal(found, target) for _, found in colors)
    assert 25 < sum(not torch.equal(found, taken) for found, _ in colors) < 39


def test_real_frames_end_to_end(shared: Path, tmp_path: Path):
    root = write_real_frames(shared, tmp_path / "nyu")
    recipe = replace(NYU_PROBE3D.recipe, epochs=2, batch=1, warmup_epochs=0.5)
    rule = replace(
        NYU_PROBE3D,
        build=partial(DptProbe, width=16),
        recipe=recipe,
        train_view=CenterView(64),
        val_view=replace(NYU_PROBE3D.val_view, short_side=64, side=64),
    )
    spec = ModelSpec(weights=write_checkpoint(tmp_path / "weights.safetensors"))
    task = dense_task(rule, normals.open_nyu, root, EvalConfig())
    result = harness.evaluate(task, spec, tmp_path / "out", torch.device("cpu"))
    assert result["settings"]["probe"] == "DptProbe"
    assert result["settings"]["train_view"]["kind"] == "CenterView"
    for metrics in result["scores"].values():
        assert 0 < metrics["rmse_deg"] < 180
        assert metrics["under_11.25"] <= metrics["under_22.5"] <= metrics["under_30"]


def test_published_settings():
    recipe = NYU_PROBE3D.recipe
    assert (recipe.epochs, recipe.batch, recipe.lr, recipe.warmup_epochs) == (10, 8, 5e-4, 1.5)
    assert (NYU_PROBE3D.train_view.side, NYU_PROBE3D.val_view.side) == (480, 480)
    assert inspect.signature(DptProbe).parameters["width"].default == 512
