"""The decoder against the published shape and values, and the published naming both ways."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lila_train.model import convolution, released
from lila_train.model import decoder as decoder_module
from lila_train.model.decoder import Decoder, DecoderWidths
from lila_train.model.released import in_released_naming, released_name
from lila_train.model.resize import align_corners
from stores.errors import LilaError


@pytest.fixture
def fixture_script(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("released_checkpoint", shared / "conformance/released_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_released_weights_give_the_reference_output(shared: Path, fixture_script: ModuleType, tmp_path: Path) -> None:
    torch.save({"state_dict": fixture_script.checkpoint("s14", teachers=True, encoder=True)}, tmp_path / "s14.pt")
    published = released.read(tmp_path / "s14.pt")
    decoder = Decoder(published.widths)
    decoder.load_state_dict(published.decoder)
    with torch.inference_mode():
        found = decoder(fixture_script.decoder_tokens(), (8 * 14, 11 * 14))[0]
    z = np.load(shared / "conformance/decoder_s14.npz")
    sampled = found[:, z["rows"]][:, :, z["cols"]].numpy()
    np.testing.assert_allclose(sampled, z["values"], atol=1e-3)
    assert "pos_embed" in published.encoder


@pytest.mark.parametrize(("width", "published"), [(384, 13_501_024), (768, 34_552_320), (1024, 68_041_984)])
def test_parameter_counts_are_the_published_ones(width: int, published: int) -> None:
    with torch.device("meta"):
        decoder = Decoder(DecoderWidths.of_encoder(width))
        count = sum(t.numel() for t in in_released_naming(decoder).values())
    norm = 2 * decoder.widths.out
    assert count - norm == published


def test_decoder_round_trips_through_the_published_naming(tmp_path: Path) -> None:
    torch.manual_seed(0)
    decoder = Decoder(DecoderWidths.of_encoder(64, inner=16))
    torch.save(in_released_naming(decoder), tmp_path / "ours.pt")
    back = Decoder(decoder.widths)
    back.load_state_dict(released.read(tmp_path / "ours.pt").decoder)
    assert all(
        torch.equal(a, b) for a, b in zip(decoder.state_dict().values(), back.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        ("project.2.weight", "projects.2.weight"),
        ("rescale.3.bias", "resize_layers.3.bias"),
        ("reduce.0.weight", "scratch.layer1_rn.weight"),
        ("fuse.0.out.bias", "scratch.refinenet1.out_conv.bias"),
        ("fuse.1.skip_unit.conv2.bias", "scratch.refinenet2.resConfUnit1.conv2.bias"),
        ("fuse.3.unit.conv1.weight", "scratch.refinenet4.resConfUnit2.conv1.weight"),
        ("head.weight", "scratch.output_conv1.weight"),
        ("pixel.2.bias", "scratch.output_conv2.2.bias"),
    ],
)
def test_every_part_has_its_published_name(ours: str, published: str) -> None:
    """Blocks count from 0 here and from 1 there, finest first in both; the skip is the first unit of a fusion."""
    assert ours in Decoder(DecoderWidths.of_encoder(64, inner=16)).state_dict()
    assert released_name(ours) == f"latent_head.{published}"


def test_every_weight_but_the_norm_gets_a_gradient() -> None:
    decoder = Decoder(DecoderWidths.of_encoder(64, inner=16))
    tokens = [torch.randn(1, 64, 3, 5) for _ in range(4)]
    decoder(tokens, (24, 40)).square().mul(torch.rand(24, 40)).sum().backward()
    without = [name for name, p in decoder.named_parameters() if p.grad is None]
    assert without == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize(("height", "width", "bias"), [(32, 32, True), (33, 46, False), (37, 121, True)])
def test_winograd_gives_the_convolution(height: int, width: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "TILES_AT_ONCE", 20)
    torch.manual_seed(0)
    layer, x = convolution.Conv3x3(96, 104, bias), torch.randn(2, 96, height, width)
    direct = layer(x)
    assert direct.requires_grad
    with torch.no_grad(), monkeypatch.context() as patch:
        found = layer(x)
        patch.setattr(convolution, "winograd", None)
        assert layer(x[..., :31]).shape == (2, 104, height, 31)  # a small map: direct
    assert found.shape == direct.shape
    torch.testing.assert_close(found, direct.detach(), atol=5e-5, rtol=0)


def test_strips_without_gradients_give_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "STRIP_PIXELS", 4 * 90)
    torch.manual_seed(0)
    decoder = Decoder(DecoderWidths.of_encoder(64, inner=192))
    tokens = [torch.randn(2, 64, 5, 7) for _ in range(4)]
    for size in ((71, 90), (6, 90), (7, 90), (1, 1)):
        with_gradients = decoder(tokens, size)
        assert with_gradients.requires_grad
        with torch.no_grad():
            found = decoder(tokens, size)
        assert found.is_contiguous()
        torch.testing.assert_close(found, with_gradients.detach(), atol=2e-4, rtol=0)
    frozen = decoder.requires_grad_(False)(tokens, (71, 90))  # as loaded models are called, without no_grad
    with torch.no_grad():
        torch.testing.assert_close(frozen, decoder(tokens, (71, 90)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [(71, 90), (9, 5), (1, 3)])
def test_rows_of_a_resized_map_are_those_of_the_whole(size: tuple[int, int], dtype: torch.dtype) -> None:
    maps = torch.randn(2, 3, 33, 40, dtype=dtype, generator=torch.Generator().manual_seed(0))
    whole = align_corners(maps, size)
    assert whole.shape == (2, 3, *size)
    for begin, end in ((0, size[0]), (0, 1), (size[0] // 2, size[0]), (size[0] - 1, size[0])):
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(
            align_corners(maps, size, begin, end), whole[:, :, begin:end], atol=tolerance, rtol=0
        )


def test_features_are_normalized_over_channels_at_any_size() -> None:
    decoder = Decoder(DecoderWidths.of_encoder(64, inner=16))
    tokens = [torch.randn(2, 64, 5, 7) for _ in range(4)]
    found = decoder(tokens, (41, 57))
    assert found.shape == (2, 8, 41, 57)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 41, 57), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("latent_head.projects.1.bias"), r"missing latent_head\.projects\.1\.bias"),
        (lambda s: s.update({"surprise.weight": torch.zeros(1)}), r"unknown surprise\.weight"),
        (lambda s: s.pop("latent_head.projects.0.weight"), "expected a LILA checkpoint"),
        (lambda s: s.update({"fnorm.bias": torch.zeros(9)}), r"expected fnorm.bias of shape \(8,\) .*, found \(9,\)"),
    ],
)
def test_a_checkpoint_that_differs_is_refused(tmp_path: Path, change: object, message: str) -> None:
    state = in_released_naming(Decoder(DecoderWidths.of_encoder(64, inner=16)))
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(LilaError, match=message):
        released.read(tmp_path / "w.pt")


def test_unknown_tensor_has_no_released_name() -> None:
    with pytest.raises(KeyError, match=r"other\.weight"):
        released_name("other.weight")


def test_entries_that_are_no_tensors_are_ignored(tmp_path: Path) -> None:
    state = in_released_naming(Decoder(DecoderWidths.of_encoder(64, inner=16)))
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pt")
    assert released.read(tmp_path / "w.pt").widths == DecoderWidths.of_encoder(64, inner=16)


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(LilaError, match=r"tensors by name in .*text\.pt .*cannot be read .*with --weights"):
        released.read(tmp_path / "text.pt")
    with pytest.raises(LilaError, match=r"expected a weight file at .*absent\.pt, found none; .*--weights"):
        released.read(tmp_path / "absent.pt")


@pytest.mark.parametrize(("width", "inner", "message"), [(100, None, "multiple of 8"), (64, 7, "even number")])
def test_widths_that_cannot_be_built_are_refused(width: int, inner: int | None, message: str) -> None:
    with pytest.raises(LilaError, match=message):
        DecoderWidths.of_encoder(width, inner)
