"""Depth on NYUv2: metrics and loss against slow loops, every layout read, end to end on real frames."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lila_train.evaluation import harness
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense.data import ScaledCrop
from lila_train.evaluation.dense.depth import (
    NYU_DEPTH,
    LogDepthProbe,
    depth_errors,
    depth_loss,
    draw_depth,
    open_nyu_depth,
)
from lila_train.evaluation.dense.probes import FrozenFeatures
from lila_train.evaluation.dense.task import dense_task, keep_example
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.report import sections
from tests.lila_cues.viz.test_html import gallery_html
from tests.lila_train.evaluation.dense.test_normals import write_pictures, write_real_frames
from tests.lila_train.evaluation.small_models import write_checkpoint


def slow_errors(true_m: np.ndarray, found_m: np.ndarray) -> dict[str, float]:
    """The three figures of one 480×640 image, pixel by pixel, in rows 45 to 470 and columns 41 to 600."""
    squares, relative, close, count = 0.0, 0.0, 0, 0
    for row in range(45, 471):
        for column in range(41, 601):
            true, found = float(true_m[row, column]), min(max(float(found_m[row, column]), 1e-3), 10.0)
            if true > 0:
                squares += (found - true) ** 2
                relative += abs(found - true) / true
                close += max(found / true, true / found) < 1.25
                count += 1
    return {"rmse_m": math.sqrt(squares / count), "abs_rel": relative / count, "delta1": close / count}


def test_errors_equal_a_slow_loop_over_pixels():
    rng = np.random.default_rng(0)
    true = rng.uniform(0.5, 10, (3, 480, 640)).astype(np.float32)
    true[rng.random(true.shape) < 0.1] = 0
    true[2] = 0  # nothing is known: no weight
    found = (true + rng.normal(0, 1, true.shape)).astype(np.float32)
    sums = depth_errors(torch.from_numpy(true)[:, None], torch.from_numpy(found)[:, None])
    each = [slow_errors(true[n], found[n]) for n in range(2)]
    assert sums.metrics() == pytest.approx({name: (each[0][name] + each[1][name]) / 2 for name in each[0]}, abs=1e-9)


def test_the_loss_forgives_a_common_factor_in_part():
    rng = np.random.default_rng(1)
    target, outputs = (torch.from_numpy(rng.uniform(1, 5, (2, 1, 4, 5))) for _ in range(2))
    target[0, 0, 0] = 0
    d = [math.log(o) - math.log(t) for o, t in zip(outputs.flatten(), target.flatten(), strict=True) if t > 0]
    mean = sum(d) / len(d)
    assert depth_loss(outputs, target).item() == pytest.approx(
        math.sqrt(sum(x * x for x in d) / len(d) - 0.85 * mean**2)
    )
    assert depth_loss(2 * target + 1e-12, target).item() == pytest.approx(math.sqrt(0.15) * math.log(2), rel=1e-6)
    unknown = torch.ones(1, 1, 2, 2, requires_grad=True)
    depth_loss(unknown, torch.zeros(1, 1, 2, 2)).backward()
    assert not unknown.grad.any()


def test_the_probe_is_linear_in_the_logarithm():
    probe = LogDepthProbe(5, 3, 1).eval()
    nn.init.constant_(probe.linear.bias, math.log(2.5))
    nn.init.zeros_(probe.linear.weight)
    features = FrozenFeatures((8, 8), (torch.randn(1, 5, 2, 2),) * 4, torch.randn(1, 3, 8, 8))
    torch.testing.assert_close(probe(features), torch.full((1, 1, 8, 8), 2.5))


def test_depth_of_both_layouts_is_read_and_far_depth_left_out(tmp_path: Path):
    depth = np.full((20, 24), 2000, np.uint16)
    depth[0], depth[1] = 0, 11_000
    for with_normals in (False, True):
        data = open_nyu_depth(write_pictures(tmp_path / str(with_normals), depth, with_normals), None)
        target = data.read(data.val[0]).target
        assert target.shape == (1, 20, 24)
        assert (target[0, 0].max(), target[0, 1].max(), target[0, 10, 10]) == (0, 0, 2)
        assert len(data.val[0]) == 2


def test_real_frames_end_to_end_and_on_a_page(shared: Path, tmp_path: Path):
    root = write_real_frames(shared, tmp_path / "nyu")
    recipe, view = replace(NYU_DEPTH.recipe, iterations=12, batch=2), ScaledCrop(64, (1.0, 1.0), ignored=0)
    small = replace(NYU_DEPTH, recipe=recipe, train_view=view, val_view=replace(NYU_DEPTH.val_view, short_side=80))
    spec = ModelSpec(weights=write_checkpoint(tmp_path / "weights.safetensors"))
    task = dense_task(small, open_nyu_depth, root, EvalConfig())
    result = harness.evaluate(task, spec, tmp_path / "out", torch.device("cpu"))
    for metrics in result["scores"].values():
        assert set(metrics) == {"rmse_m", "abs_rel", "delta1"}
        assert 0 < metrics["rmse_m"] < 10
    with Image.open(tmp_path / "out/examples/00000/truth.png") as picture:
        assert (picture.mode, picture.size) == ("L", (107, 80))
    page = gallery_html(sections.example_section(tmp_path / "out", ["encoder", "lila"], "depth"))
    assert page.count("<img") == 6
    assert "Depth from light" in page


def test_the_error_of_stored_depth_is_shown_as_a_share(tmp_path: Path):
    true, found = torch.full((1, 8, 12), 2.0), torch.full((1, 8, 12), 2.4)
    keep_example(tmp_path / "examples", 0, "lila", torch.zeros(3, 8, 12), draw_depth(true), draw_depth(found))
    assert "mean 20.0 % here" in gallery_html(sections.example_section(tmp_path, ["lila"], "depth"))
