"""Zero-shot segmentation: loss and metrics against hand-computed values, and a run on a real image."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lila_train.evaluation import harness, protocols
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense.probes import FrozenFeatures
from lila_train.evaluation.dense.task import DenseTask
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.text import zero_shot
from lila_train.evaluation.text.clip import ClassTexts
from lila_train.evaluation.text.zero_shot import SeenAndUnseen, TextProbe, zero_shot_loss
from stores.errors import LilaError
from tests.lila_train.evaluation.dense.test_segmentation import write_coco
from tests.lila_train.evaluation.small_models import write_checkpoint

CPU = torch.device("cpu")


def write_names(root: Path, **changes: str) -> None:
    names = {n: f"class{n}" for n in range(1, 183)} | {label + 1: name for label, name in zero_shot.UNSEEN.items()}
    names |= {int(key[1:]): name for key, name in changes.items()}
    (root / "labels.txt").write_text("0: unlabeled\n" + "\n".join(f"{n}: {name}" for n, name in names.items()))


def test_without_ignored_pixels_the_loss_is_cross_entropy():
    logits = torch.tensor([[2.0, 0.0, 1.0]]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    target = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    total = math.log(math.exp(2) + 1 + math.exp(1))
    assert zero_shot_loss(logits, target, unseen=[2]).item() == pytest.approx(total - 2)


def test_ignored_and_unseen_pixels_push_seen_probabilities_down():
    logits = torch.tensor([[2.0, 0.0, 1.0]]).view(1, 3, 1, 1).repeat(1, 1, 1, 3)
    target = torch.tensor([0, 2, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    odds = [math.exp(2), 1.0, math.exp(1)]
    entropy, seen = math.log(sum(odds)) - 2, (odds[0] + odds[1]) / sum(odds)
    assert zero_shot_loss(logits, target, unseen=[2]).item() == pytest.approx(0.1 * entropy + seen**2)
    nothing = zero_shot_loss(logits, torch.full_like(target, 255), unseen=[2])
    assert nothing.item() == pytest.approx(seen**2)


def test_means_over_seen_and_unseen_classes():
    counts = np.array([[6, 2, 0], [0, 4, 0], [1, 0, 1]])  # truth in rows; class 2 is unseen
    found = SeenAndUnseen(counts, (2,)).metrics()
    seen, unseen = (6 / 9 + 4 / 6) / 2, 1 / 2
    assert found["miou_seen"] == pytest.approx(seen)
    assert found["miou_unseen"] == pytest.approx(unseen)
    assert found["miou_harmonic"] == pytest.approx(2 * seen * unseen / (seen + unseen))
    halves = SeenAndUnseen(counts // 2, (2,)), SeenAndUnseen(counts - counts // 2, (2,))
    assert (halves[0] + halves[1]).metrics() == found
    restored = SeenAndUnseen.from_json(json.loads(json.dumps(halves[0].to_json())))
    assert replace(restored, unseen=(2,)).metrics() == halves[0].metrics()
    assert restored.unseen == tuple(zero_shot.UNSEEN)
    only_seen = SeenAndUnseen(counts * [[1], [1], [0]], (2,)).metrics()
    assert (only_seen["miou_unseen"], only_seen["miou_harmonic"], only_seen["absent_classes"]) == (None, None, 1)


def test_logits_are_scaled_cosines_to_the_texts(tmp_path: Path):
    np.save(tmp_path / "texts.npy", np.array([[1, 0, 0], [0, 2, 0]], np.float32))
    texts = ClassTexts(["one", "two", "unused"], [], "", tmp_path / "texts.npy", unused=[2])
    probe = TextProbe(3, None, 3, texts).eval()
    probe.grid.weight.data = torch.eye(3).view(3, 3, 1, 1)
    grid = torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1)
    logits = probe(FrozenFeatures((1, 1), (grid,) * 4, None))[0, :, 0, 0]
    assert logits[:2].tolist() == pytest.approx([60.0, 80.0], rel=1e-4)
    assert logits[2] == zero_shot.UNNAMED_LOGIT
    assert probe.grid.bias is None
    assert "texts" not in probe.state_dict()


def test_the_logits_of_grid_and_pixel_map_are_added(tmp_path: Path):
    draw = np.random.default_rng(0)
    np.save(tmp_path / "texts.npy", draw.standard_normal((4, 5)).astype(np.float32))
    texts = ClassTexts(list("abcd"), [], "", tmp_path / "texts.npy")
    probe = TextProbe(3, 2, 4, texts).eval()
    grid, pixels = torch.randn(1, 3, 2, 2), torch.randn(1, 2, 4, 4)
    state = {name: value.detach().double().numpy() for name, value in probe.named_parameters()}
    unit = texts.embeddings.double().numpy()

    def cosines(weight: np.ndarray, maps: torch.Tensor) -> torch.Tensor:
        projected = np.einsum("tc,chw->thw", weight[:, :, 0, 0], maps[0].double().numpy())
        cosine = np.einsum("kt,thw->khw", unit, projected / np.linalg.norm(projected, axis=0))
        return F.interpolate(torch.from_numpy(cosine)[None], (4, 4), mode="bilinear")[0]

    normed = grid / (1 + probe.norm.eps) ** 0.5  # batch norm before its first batch
    expected = 100 * (cosines(state["grid.weight"], normed) + cosines(state["pixels.weight"], pixels))
    found = probe(FrozenFeatures((4, 4), (grid,) * 4, pixels))[0]
    torch.testing.assert_close(found, expected.float(), atol=1e-3, rtol=1e-4)


def test_the_unseen_classes_are_checked_by_name(tmp_path: Path):
    assert len(zero_shot.UNSEEN) == 15
    assert not set(zero_shot.UNSEEN) & set(zero_shot.UNUSED)
    write_names(tmp_path, n21="horse")
    with pytest.raises(LilaError, match=r"expected cow as class 21 of .*labels\.txt, found horse"):
        zero_shot.zero_shot_task(tmp_path, EvalConfig())


def test_a_real_image_and_real_texts_end_to_end(shared: Path, tmp_path: Path):
    with Image.open(shared / "data/coco/000000142238.jpg") as picture:
        image = np.asarray(picture.convert("RGB").resize((96, 64)))
    labels = np.full(image.shape[:2], 255, np.uint8)
    labels[:20], labels[20:40], labels[40:60] = 0, 123, 156  # person, grass (unseen), sky
    root = write_coco(tmp_path / "coco", labels, image, count=2)
    write_names(root)
    options = EvalConfig(texts=shared / "data/text/cocostuff171_clip_text.npy")
    task = protocols.open_task("cocostuff-zs@lila", root, options)
    assert isinstance(task, DenseTask)
    recipe = task.rule.recipe
    assert (recipe.epochs, recipe.batch, recipe.lr, recipe.weight_decay) == (5, 32, 3e-4, 0.01)
    rule = replace(
        task.rule,
        recipe=replace(task.rule.recipe, epochs=1, batch=2),
        train_view=replace(task.rule.train_view, side=32),
        val_view=replace(task.rule.val_view, short_side=32, side=32),
    )
    spec = ModelSpec(weights=write_checkpoint(tmp_path / "weights.safetensors"))
    result = harness.evaluate(replace(task, config=options, rule=rule), spec, tmp_path / "out", CPU)
    for metrics in result["scores"].values():
        assert metrics["absent_classes"] == 182 - 3
        assert {"miou_seen", "miou_unseen", "miou_harmonic"} <= set(metrics)
    assert result["settings"]["probe"] == "TextProbe"
    assert "texts_sha256" in result["data"]


def test_a_missing_file_of_texts_is_an_error(tmp_path: Path):
    write_names(tmp_path)
    with pytest.raises(LilaError, match=r"embeddings of the classes at .*none\.npy, found none; pass a \.npy"):
        protocols.open_task("cocostuff-zs@lila", tmp_path, EvalConfig(texts=tmp_path / "none.npy"))
