"""Encoder weights: local files in either naming, missing and unexpected tensors, and their record."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lila_cues.networks import WeightSource, encoder_from_tensors, load_depth, load_encoder, restore_encoder
from lila_cues.networks.state_dicts import to_timm
from lila_cues.networks.weights import file_sha256
from stores.errors import LilaError


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    """timm's names and random values of DINOv2 S."""
    return dict(load_encoder("dinov2_vits14", "random:4").vit.state_dict())


def test_original_dinov2_file(plain: dict[str, Tensor], tmp_path: Path) -> None:
    """The original has the same names and a mask token."""
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save({**plain, "mask_token": torch.zeros(1, 384)}, path)
    encoder = load_encoder("dinov2_vits14", path)
    assert _same(encoder.vit.state_dict(), plain)
    assert encoder.source == WeightSource(
        "dinov2_vits14", "file", str(path), None, file_sha256(path), "apache-2.0"
    )  # fmt: skip


def test_wrapped_and_chunked_training_checkpoint(plain: dict[str, Tensor], tmp_path: Path) -> None:
    """DINOv2's training saves the teacher's backbone, with its blocks in chunks, beside unused heads."""
    chunked = {name.replace("blocks.", f"blocks.{_chunk(name)}."): value for name, value in plain.items()}
    path = tmp_path / "teacher_checkpoint.pth"
    torch.save({"teacher": {f"backbone.{name}": value for name, value in chunked.items()}}, path)
    assert _same(load_encoder("dinov2_vits14", path).vit.state_dict(), plain)


def test_original_register_file(tmp_path: Path) -> None:
    """The original keeps a position for the class token; timm adds it to the token."""
    expected = load_encoder("dinov2_vits14_reg", "random:5").vit.state_dict()
    tensors = dict(expected)
    class_position = torch.randn(1, 1, 384)
    tensors["register_tokens"] = tensors.pop("reg_token")
    tensors["pos_embed"] = torch.cat([class_position, tensors["pos_embed"]], dim=1)
    tensors["cls_token"] = tensors["cls_token"] - class_position
    tensors["mask_token"] = torch.zeros(1, 384)
    path = tmp_path / "dinov2_vits14_reg4_pretrain.pth"
    torch.save(tensors, path)
    found = load_encoder("dinov2_vits14_reg", path).vit.state_dict()
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_original_dinov3_file(tmp_path: Path) -> None:
    """One bias for queries, keys and values, that of the keys masked; layer scales, registers and rotations renamed."""
    expected = load_encoder("vit_small_patch16_dinov3_qkvb", "random:6").vit.state_dict()
    tensors = _original_dinov3(expected, bias=0.3)
    assert _same(_loaded("vit_small_patch16_dinov3_qkvb", tensors, tmp_path), _with_bias(expected, 0.3))


def test_dinov3_without_biases_accepts_zero_biases_only(tmp_path: Path) -> None:
    expected = load_encoder("dinov3_vits16", "random:6").vit.state_dict()
    assert _same(_loaded("dinov3_vits16", _original_dinov3(expected, bias=0.0), tmp_path), expected)
    with pytest.raises(LilaError, match=r"bias of zeros in blocks\.\d+\.attn\.qkv\.bias.*with _qkvb at the end"):
        _loaded("dinov3_vits16", _original_dinov3(expected, bias=0.3), tmp_path)


def test_gated_units_are_renamed() -> None:
    value = torch.zeros(1)
    giant = to_timm({"blocks.0.mlp.w12.weight": value, "blocks.0.mlp.w3.bias": value}, [])
    assert set(giant) == {"blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.bias"}
    plus = to_timm({f"blocks.0.mlp.w{n}.bias": value for n in (1, 2, 3)} | {"storage_tokens": value}, [])
    assert set(plus) == {"reg_token", *(f"blocks.0.mlp.{part}.bias" for part in ("fc1_g", "fc1_x", "fc2"))}


def test_missing_and_unexpected_tensors_are_named(plain: dict[str, Tensor], tmp_path: Path) -> None:
    tensors = {name: value for name, value in plain.items() if not name.startswith("norm.")} | {
        "surplus": torch.ones(1)
    }
    with pytest.raises(
        LilaError, match=r"2 missing \(norm\.weight, norm\.bias\); 1 unexpected \(surplus\); choose the net"
    ):
        _loaded("dinov2_vits14", tensors, tmp_path)


def test_tensors_of_another_shape_are_named(plain: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(LilaError, match=r"1 of another shape \(norm\.weight \(7,\) for \(384,\)\)"):
        _loaded("dinov2_vits14", plain | {"norm.weight": torch.ones(7)}, tmp_path)


def test_a_file_of_another_network_is_refused(shared: Path) -> None:
    with pytest.raises(LilaError, match=r"expected the \d+ tensors of the chosen network .* with --encoder-weights"):
        load_encoder("dinov2_vits14", shared / "data" / "weights" / "raft_small.pth")


def test_safetensors_file(plain: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(plain, path)
    assert _same(load_encoder("dinov2_vits14", path).vit.state_dict(), plain)


def test_encoder_from_tensors(plain: dict[str, Tensor]) -> None:
    source = WeightSource("dinov2_vits14", "file", "a.pt", None, None, "apache-2.0")
    encoder = encoder_from_tensors("dinov2_vits14", {f"pretrained.{name}": plain[name] for name in plain}, source)
    assert _same(encoder.vit.state_dict(), plain)
    assert encoder.source is source


def test_random_weights_are_a_function_of_the_seed() -> None:
    first, again, other = (load_encoder("tiny", f"random:{seed}") for seed in (7, 7, 8))
    assert first.source == again.source
    assert _same(first.vit.state_dict(), again.vit.state_dict())
    assert first.source.sha256 != other.source.sha256
    assert load_encoder("tiny", "random").source == load_encoder("tiny", "random:0").source


def test_random_weights_do_not_advance_the_global_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_encoder("tiny", "random:5")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("place", ["file", "random"])
def test_an_encoder_is_restored_from_its_record(place: str, tmp_path: Path) -> None:
    encoder = load_encoder("tiny", _weights(place, tmp_path))
    record = WeightSource.from_dict(encoder.source.to_dict())
    assert record == encoder.source
    assert _same(restore_encoder(record).vit.state_dict(), encoder.vit.state_dict())


def test_packaged_weights_are_loaded_and_restored() -> None:
    encoder, depth = load_encoder("tiny"), load_depth("tiny")
    assert [network.source.origin for network in (encoder, depth)] == ["package", "package"]
    assert _same(restore_encoder(encoder.source).vit.state_dict(), encoder.vit.state_dict())
    assert depth(torch.rand(1, 3, 56, 48)).min() >= 0


def test_weights_other_than_the_recorded_ones_are_refused(tmp_path: Path) -> None:
    source = load_encoder("tiny", _weights("file", tmp_path)).source
    other = tmp_path / "other.pth"
    torch.save(load_encoder("tiny", "random:9").vit.state_dict(), other)
    with pytest.raises(
        LilaError, match=r"recorded weights with SHA-256 \w{16}…, found \w{16}… in .*other\.pth; give the"
    ):
        restore_encoder(source, other)
    with pytest.raises(
        LilaError, match=r"recorded weights with SHA-256 .* in the weights of random:9; give the recorded"
    ):
        restore_encoder(source, "random:9")


def test_a_recorded_file_may_move(tmp_path: Path) -> None:
    path = _weights("file", tmp_path)
    source = load_encoder("tiny", path).source
    moved = Path(path).rename(tmp_path / "moved.pth")
    with pytest.raises(
        LilaError, match=r"weights of tiny at .*tiny\.pth, found no such file; .* with --encoder-weights"
    ):
        restore_encoder(source)
    assert restore_encoder(source, moved).source.sha256 == source.sha256


def _weights(place: str, folder: Path) -> str:
    if place == "random":
        return "random:3"
    path = folder / "tiny.pth"
    torch.save(load_encoder("tiny", "random:3").vit.state_dict(), path)
    return str(path)


def _loaded(name: str, tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    path = folder / "weights.pth"
    torch.save(tensors, path)
    return dict(load_encoder(name, path).vit.state_dict())


def _original_dinov3(tensors: dict[str, Tensor], bias: float) -> dict[str, Tensor]:
    """As facebookresearch/dinov3 saves it; its mask of the biases may hold NaN where nothing was set."""
    original = {
        name.replace("gamma_1", "ls1.gamma")
        .replace("gamma_2", "ls2.gamma")
        .replace("reg_token", "storage_tokens"): value
        for name, value in tensors.items()
        if not name.endswith(("q_bias", "v_bias"))
    }
    one = torch.ones(384)
    for block in range(12):
        original[f"blocks.{block}.attn.qkv.bias"] = torch.cat([bias * one, 5 * one, -bias * one])
        original[f"blocks.{block}.attn.qkv.bias_mask"] = torch.cat([one, 0 * one, one])
    return original | {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}


def _with_bias(tensors: dict[str, Tensor], bias: float) -> dict[str, Tensor]:
    sign = {"q_bias": bias, "v_bias": -bias}
    return {
        name: torch.full_like(value, sign[name[-6:]]) if name[-6:] in sign else value for name, value in tensors.items()
    }


def _chunk(name: str) -> int:
    return int(name.split(".")[1]) // 3 if name.startswith("blocks.") else 0


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
