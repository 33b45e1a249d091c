"""Open-vocabulary segmentation: the attention against a loop, and a run on real images with a small random CLIP."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lila_train.evaluation import harness, protocols
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.dense.data import DenseData
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.text import proxyclip
from lila_train.evaluation.text.clip import ClassTexts, ClipImages
from lila_train.evaluation.text.proxyclip import OpenVocabulary, ProxySettings, proxy_attention
from tests.lila_train.evaluation.small_clip import write_image_encoder
from tests.lila_train.evaluation.small_models import write_checkpoint
from tests.lila_train.evaluation.worlds import ColorModel

CPU = torch.device("cpu")


def test_the_attention_is_the_positive_part_of_the_affinity():
    draw = torch.Generator().manual_seed(0)
    features, values = torch.randn(5, 3, 4, generator=draw), torch.randn(2, 3, 4, generator=draw)
    found = proxy_attention(features, values, ProxySettings(rows_at_once=5))
    cells, each = features.flatten(1).T, values.flatten(1).T
    cosine = torch.tensor([[torch.cosine_similarity(a, b, dim=0) for b in cells] for a in cells])
    for n, row in enumerate(3.0 * (cosine - 1.2 * cosine.mean())):
        near = [m for m in range(12) if row[m] >= 0]
        assert 0 < len(near) < 12
        expected = torch.softmax(row[near], dim=0) @ each[near]
        torch.testing.assert_close(found[n], expected, atol=1e-5, rtol=1e-4)


def test_the_values_are_those_of_clip_s_last_attention(tmp_path: Path):
    """Averaged by CLIP's own attention they are what its last attention gives."""
    clip = ClipImages.load(str(write_image_encoder(tmp_path)))
    image = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    outputs = []
    layer = clip.network.vision_model.encoder.layers[-1]
    handle = layer.self_attn.v_proj.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    values = clip.values(image)
    handle.remove()
    torch.testing.assert_close(values.flatten(2).mT, outputs[0][:, 1:], atol=1e-5, rtol=1e-4)
    assert values.shape == (1, 32, 4, 6)
    attended = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(1))
    expected = layer.self_attn.out_proj(attended)
    expected = clip.network.visual_projection(clip.network.vision_model.post_layernorm(expected))
    torch.testing.assert_close(clip.embedded(attended), expected)


class ColorClip(ClipImages):
    """Texts are colors: a cell's values are its mean color."""

    patch_size = 8

    def values(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, self.patch_size)

    def embedded(self, attended: torch.Tensor) -> torch.Tensor:
        return attended


@pytest.mark.parametrize("head", ["encoder", "lila"])
def test_each_pixel_has_the_class_whose_text_matches_its_color(head: str):
    image = torch.zeros(3, 48, 80, dtype=torch.uint8)
    image[0, :, :40], image[2, :, 40:] = 220, 200
    shape = ProxySettings(short_side=48, window=48, stride=16)
    data = DenseData(Path(), [], [], lambda files: None, {})
    task = OpenVocabulary("openvocab@proxyclip", data, EvalConfig(), shape, ClassTexts([], [], ""))
    texts = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    logits = task.logits(ColorModel(), head, ColorClip(None), texts, image)[0]
    assert logits.shape == (3, 48, 80)
    found = logits.argmax(dim=0)
    assert (found[:, :34] == 2).all()
    assert (found[:, 46:] == 0).all()
    assert logits[2, 24, 4].item() == pytest.approx(40, rel=0.02)


@pytest.fixture
def ade(shared: Path, tmp_path: Path) -> Path:
    root = tmp_path / "ade"
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        (root / kind / "validation").mkdir(parents=True)
        for number in (1, 2):
            shutil.copy(shared / f"data/ade/ADE_val_0000000{number}.{suffix}", root / kind / "validation")
    shutil.copy(shared / "data/ade/objectInfo150.txt", root)
    return root


def small(task: OpenVocabulary) -> OpenVocabulary:
    return replace(task, rule=replace(task.rule, short_side=48, window=48, stride=16))


def test_real_images_end_to_end(ade: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(proxyclip, "IMAGES_PER_PART", 1)
    texts = np.load(shared / "data/text/cocostuff171_clip_text.npy")[:150]
    np.save(tmp_path / "texts.npy", texts)
    clip = str(write_image_encoder(tmp_path / "clip"))
    task = protocols.open_task("openvocab@proxyclip", ade, EvalConfig(texts=tmp_path / "texts.npy", clip=clip))
    assert isinstance(task, OpenVocabulary)
    assert isinstance(task, harness.Task)
    spec = ModelSpec(weights=write_checkpoint(tmp_path / "weights.safetensors"))
    load, loaded = ClipImages.load, []
    monkeypatch.setattr(ClipImages, "load", lambda *place: loaded.append(place[0]) or load(*place))
    result = harness.evaluate(small(task), spec, tmp_path / "out", CPU)
    assert loaded == [clip], "once for all parts of both heads"
    known = 0
    for number in (1, 2):
        with Image.open(ade / f"annotations/validation/ADE_val_0000000{number}.png") as picture:
            known += int(np.count_nonzero(np.asarray(picture)))
    for head in ("encoder", "lila"):
        parts = result["parts"][head]
        assert list(parts) == ["00000", "00001"]
        assert sum(np.sum(part["sums"]["confusion"]) for part in parts.values()) == known
        assert 0 <= result["scores"][head]["miou"] <= 1
    assert result["derived"] == {"grid_cells": 6, "pixel_map_cells": 12}
    assert result["counts"] == {"images": 2, "classes": 150}


def test_published_settings(ade: Path):
    task = protocols.open_task("openvocab@proxyclip", ade, EvalConfig(limit=1))
    chosen = task.settings
    assert (chosen["beta"], chosen["gamma"], chosen["logit_scale"]) == (1.2, 3.0, 40.0)
    assert (chosen["window"], chosen["stride"], chosen["templates"]) == (336, 112, 80)
    assert chosen["clip"] == "openai/clip-vit-base-patch16"
    assert task.counts()["images"] == 1
