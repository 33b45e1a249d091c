"""ONNX and torch.export: the same features as the model, for any batch and size."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lila_cues.networks import load_encoder
from lila_train.cli import app
from lila_train.model import export as exporting
from lila_train.model import released
from lila_train.model.decoder import Decoder, DecoderWidths
from lila_train.model.export import export, load_exported
from lila_train.model.lila import Lila, load
from stores.errors import LilaError, StoreError
from tests.full_disk import full_disk

SIZES = [(1, 24, 24), (2, 100, 64), (5, 31, 45)]
NARROW = [(1, 16, 640), (1, 640, 7)]  # one patch wide


@pytest.fixture(scope="module")
def model() -> Lila:
    """With a class token, and one block of the encoder: tracing takes its time by the number of blocks."""
    encoder = load_encoder("vit_tiny_patch16_224", "random:0")
    encoder.vit.blocks, encoder.taps = encoder.vit.blocks[:1], (0, 0, 0, 0)
    torch.manual_seed(0)
    return Lila(encoder, Decoder(DecoderWidths.of_encoder(encoder.width, inner=16))).eval()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """While a graph is traced, sizes are symbols, not the integers that the checked signatures name."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".pt2", marks=pytest.mark.slow)])
def test_a_file_computes_what_the_model_computes(model: Lila, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"new/model{suffix}"
    assert export(model, path) < 1e-4
    run = load_exported(path)
    for count, height, width in SIZES + NARROW * (suffix == ".onnx"):
        images = torch.rand(count, 3, height, width)
        with torch.inference_mode():
            expected = model(images)
        np.testing.assert_allclose(run(images.numpy()), expected, atol=1e-4)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".pt2", marks=pytest.mark.slow), ".pt"])
def test_a_full_disk_leaves_no_half_file(model: Lila, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    expected = rf"no space left in .* while writing model\{suffix}; free some space"
    with pytest.raises(StoreError, match=expected), full_disk():
        released.write(path, model.decoder) if suffix == ".pt" else export(model, path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_refused(model: Lila, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_write", lambda portable, path, model: None)
    monkeypatch.setattr(exporting, "load_exported", lambda path: lambda images: np.float32(0))
    with pytest.raises(LilaError, match="gives features that differ from the model's by up to"):
        export(model, tmp_path / "model.pt2")


def test_export_refusals(model: Lila, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LilaError, match=r"expected a file ending in \.onnx or \.pt2"):
        export(model, tmp_path / "model.tflite")
    with pytest.raises(LilaError, match="expected a model that pads its images, found fit=resize"):
        export(Lila(model.encoder, model.decoder, "resize"), tmp_path / "model.pt2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LilaError, match=r"onnx, onnxscript, onnxruntime must be installed for ONNX; pip install"):
        export(model, tmp_path / "model.onnx")


def test_the_command_prints_the_difference(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(model: Lila, path: Path) -> float:
        path.write_bytes(b"x" * 2_000_000)
        return 3e-6

    monkeypatch.setattr(exporting, "export", write)
    result = CliRunner().invoke(app, ["export", "--weights", str(weights), "--out", str(tmp_path / "m.onnx")])
    assert result.exit_code == 0, result.output
    assert "2.0 MB, differs from the model by at most 3e-06" in result.output


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_dinov2_and_lila_of_full_width(tmp_path: Path, suffix: str) -> None:
    encoder = load_encoder("dinov2_vits14", "random:0")
    torch.manual_seed(0)
    model = Lila(encoder, Decoder(DecoderWidths.of_encoder(encoder.width))).eval()
    sizes = [(1, 56, 84), (3, 73, 43), (2, 125, 42), (1, 224, 224), (2, 100, 331), (1, 476, 700)]
    assert export(model, tmp_path / f"model{suffix}", sizes) < 1e-4


def test_the_decoder_alone_is_written_with_published_names(weights: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", "--weights", str(weights), "--out", str(tmp_path / "new/decoder.pt")])
    assert result.exit_code == 0, result.output
    found = released.read(tmp_path / "new/decoder.pt")
    own = load(weights).decoder.state_dict()
    assert all(torch.equal(found.decoder[name], tensor) for name, tensor in own.items())
    assert not found.encoder
