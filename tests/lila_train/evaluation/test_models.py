"""The adapters of models under test, and the command that scores them, with small untrained networks."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lila_cues.networks import FrozenEncoder, load_encoder
from lila_train.cli import app
from lila_train.evaluation import models
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.models import EncoderAlone, LilaModel, feature_map
from stores.errors import LilaError
from tests.lila_train.evaluation.small_models import ENCODER, write_checkpoint
from tests.lila_train.evaluation.worlds import write_davis

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "weights.safetensors")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(1, 3, 56, 112, generator=torch.Generator().manual_seed(1))


def test_trained_weights_give_the_encoder_grid_and_a_pixel_map(weights: Path, images: torch.Tensor):
    spec = ModelSpec(weights=weights)
    model = spec.load(CPU)
    assert spec.heads() == ("encoder", "lila")
    assert isinstance(model, LilaModel)
    assert feature_map(model, "encoder")(images).shape == (
        1,
        model.lila.encoder.width,
        56 // model.patch_size,
        112 // model.patch_size,
    )
    assert feature_map(model, "lila")(images).shape == (1, 8, 56, 112)


def test_grid_and_pixel_map_of_the_same_images_take_one_pass_of_the_encoder(
    weights: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    model = ModelSpec(weights=weights).load(CPU)
    passes: list[torch.Tensor] = []
    tokens = FrozenEncoder.tokens
    monkeypatch.setattr(FrozenEncoder, "tokens", lambda self, x: passes.append(x) or tokens(self, x))
    expected = [model.lila(each) for each in (images, images.flip(3))]
    passes.clear()
    for each, lila in zip((images, images.flip(3)), expected, strict=True):
        grid, taps = model.encoder_grid(each), model.encoder_taps(each)
        torch.testing.assert_close(model.pixel_map(each), lila)
        assert grid is taps[-1]
    assert len(passes) == 2
    with ThreadPoolExecutor(1) as pool:  # a part of the data, and another model on the same encoder
        pool.submit(EncoderAlone(model.encoder, CPU).encoder_grid, images.clone()).result()
    assert len(passes) == 2
    monkeypatch.setattr(models, "CACHED", 1)
    for _ in range(2):
        model.encoder_grid(images.flip(2))
        model.encoder_grid(images)
    assert len(passes) == 6


def test_both_adapters_give_the_same_grid(weights: Path, images: torch.Tensor):
    ours = ModelSpec(weights=weights).load(CPU)
    alone = EncoderAlone(load_encoder(*ENCODER), CPU)
    torch.testing.assert_close(ours.encoder_grid(images), alone.encoder_grid(images))
    assert ours.describe()["encoder_weights"] == alone.describe()["encoder_weights"]


def test_an_encoder_alone_has_one_head(shared: Path):
    file = shared / "data/weights/vit_tiny_patch16_224.pth"
    spec = ModelSpec(encoder="vit_tiny_patch16_224", encoder_weights=file)
    model = spec.load(CPU)
    assert spec.heads() == ("encoder",)
    assert model.patch_size == 16
    assert spec.identity()["encoder_weights_sha256"] == model.describe()["encoder_weights"]["sha256"]


@pytest.mark.parametrize(
    ("name", "width", "patch"),
    [
        ("vit_small_patch16_224.dino", 384, 16),
        ("vit_base_patch16_224.mae", 768, 16),
        ("dinov2_vits14", 384, 14),
        ("dinov2_vits14_reg", 384, 14),
        ("dinov3_vits16", 384, 16),
    ],
)
def test_raw_encoders_are_loaded_by_name(name: str, width: int, patch: int):
    spec = ModelSpec(encoder=name, encoder_weights=Path("random:1"))
    model = spec.load(CPU)
    assert spec.identity() == {"encoder": name, "encoder_weights": "random:1"}
    assert model.encoder_grid(torch.rand(1, 3, 2 * patch, 3 * patch)).shape == (1, width, 2, 3)
    assert len(model.encoder_taps(torch.rand(1, 3, patch, patch))) == 4


def test_the_identity_follows_the_content_of_the_weights(weights: Path, tmp_path: Path):
    copied = shutil.copy(weights, tmp_path / "copy.safetensors")
    assert ModelSpec(weights=copied).identity() == ModelSpec(weights=weights).identity()
    copied.write_bytes(copied.read_bytes() + b" ")
    assert ModelSpec(weights=copied).identity() != ModelSpec(weights=weights).identity()


def test_a_run_is_identified_by_its_weights_wherever_its_encoder_is(weights: Path):
    identity = ModelSpec(weights=weights).identity()
    assert ModelSpec(weights=weights.parent).identity() == identity
    assert ModelSpec(weights=weights, encoder_weights=weights).identity() == identity  # a place, not another encoder
    assert ModelSpec(weights=weights.parent).load(CPU).lila.decoder.widths.out == 8


def test_the_command_scores_encoder_and_model_in_one_run(weights: Path, tmp_path: Path):
    data = write_davis(tmp_path / "davis", ("one",), count=4)
    out = tmp_path / "out"
    asked = ["eval", "davis-knn@lila", "--data", data, "--weights", weights, "--out", out, "--short-side", "56"]
    shown = CliRunner().invoke(app, [str(word) for word in asked], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "radius_cells 12" in shown.output
    assert "radius_native_px 9.6" in shown.output
    result = json.loads((out / "result.json").read_text())
    assert set(result["scores"]) == {"encoder", "lila"}
    assert result["model"]["encoder"] == "tiny"
    assert result["derived"]["frame_px"][0] == 56


def test_the_command_refuses_an_unknown_protocol(weights: Path, tmp_path: Path):
    asked = ["eval", "davis", "--data", str(tmp_path), "--weights", str(weights), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, asked)
    assert isinstance(shown.exception, LilaError)
    assert "one of davis-lp@lila" in str(shown.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_real_davis_end_to_end(shared: Path, tmp_path: Path):
    words = ["eval", "davis-knn@lila", "--data", shared / "data/davis", "--limit", 1, "--out", tmp_path / "out"]
    words += ["--encoder", "vit_tiny_patch16_224"]
    words += ["--encoder-weights", shared / "data/weights/vit_tiny_patch16_224.pth", "--short-side", 240]
    CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert result["counts"] == {"sequences": 1, "objects": 1, "frames": 30}
    assert 0.6 < result["scores"]["encoder"]["JF"] < 0.7  # on 15 rows of cells; 34 give 0.8
