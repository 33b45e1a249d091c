"""Depth networks: transformers' own passes, intact and damaged folders, and the tiny network."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

from lila_cues.networks import DepthNetwork, Execution, hub, load_depth
from lila_cues.networks.depth import build, working_size
from lila_cues.networks.weights import file_sha256
from stores.errors import LilaError

NAME = "depth_anything_v2_small"


def small_network(kind: str = "relative", patch: int = 14, seed: int = 0) -> DepthAnythingForDepthEstimation:
    """Depth Anything's graph with two blocks of width 24, its output raised so that not all of it is clipped at 0."""
    backbone = Dinov2Config(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=70,
        patch_size=patch,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=patch,
        reassemble_hidden_size=24,
        neck_hidden_sizes=[8, 12, 16, 16],
        fusion_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=1,
    )
    torch.manual_seed(seed)
    network = DepthAnythingForDepthEstimation(config).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
            layer.reset_parameters()  # with those of transformers the map is constant to seven digits
    with torch.no_grad():
        network.head.conv3.bias += 1
        network.head.conv3.weight *= 20
        network.backbone.embeddings.position_embeddings *= 50  # as large as those of trained networks
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_network().save_pretrained(tmp_path / "network")
    return tmp_path / "network"


def keys_weights(new: int, old: int, offset: float) -> Tensor:
    """DINOv2's bicubic resize along one axis: kernel with a = -0.75, border repeated, steps of old / (new + offset)."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for index in range(new):
        place = (index + 0.5) * old / (new + offset) - 0.5
        for cell in range(math.floor(place) - 1, math.floor(place) + 3):
            x = abs(place - cell)
            near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[index, min(max(cell, 0), old - 1)] += near if x <= 1 else far
    return weights


def map_by_transformers(images: Tensor, offset: float | None) -> Tensor:
    """transformers' own pass, normalized as ImageNet, with the positions of `keys_weights`; None: with its own."""
    network = small_network()
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    embeddings = network.backbone.embeddings
    if offset is not None:
        learned = embeddings.position_embeddings.detach().double()
        rows, columns = (keys_weights(length // 14, 5, offset) for length in images.shape[-2:])
        patches = torch.einsum("yi,xj,ije->yxe", rows, columns, learned[0, 1:].unflatten(0, (5, 5))).flatten(0, 1)
        positions = torch.cat([learned[0, :1], patches])[None].float()
        embeddings.interpolate_pos_encoding = lambda *_: positions
    with torch.no_grad():
        return network(pixel_values=(images - mean) / std).predicted_depth


def test_a_local_folder_gives_the_map_of_its_authors(folder: Path) -> None:
    """The map resized bilinearly with aligned corners; at another size the positions with DINOv2's offset of 0.1."""
    images = torch.rand(2, 3, 42, 70, generator=torch.Generator().manual_seed(1))
    network = load_depth(NAME, folder)
    q = network(images)
    assert q.std() > 0
    torch.testing.assert_close(q, map_by_transformers(images, 0.1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(map_by_transformers(images, None), map_by_transformers(images, 0), atol=1e-5, rtol=1e-5)
    assert (q - map_by_transformers(images, None)).std() > 0.01 * q.std()
    square = torch.rand(1, 3, 70, 70, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network(square), map_by_transformers(square, None), atol=1e-5, rtol=1e-5)
    source = network.source
    assert (source.origin, source.location, source.licence) == ("file", str(folder), "apache-2.0")
    assert source.sha256 == file_sha256(folder / "model.safetensors")


@pytest.mark.parametrize("size", [(42, 42), (50, 71), (13, 100)])
def test_map_has_the_size_of_the_image(folder: Path, size: tuple[int, int]) -> None:
    q = load_depth(NAME, folder)(_images(1, *size))
    assert q.shape == (1, *size)
    assert q.dtype == torch.float32
    assert q.min() >= 0


def test_working_size_is_the_nearest_in_patches() -> None:
    assert working_size(224, 224) == (224, 224)
    assert working_size(50, 71) == (56, 70)
    assert working_size(3, 200) == (14, 196)


def test_other_sizes_are_resized_to_the_working_size_and_back(folder: Path) -> None:
    images, network = _images(1, 31, 31), load_depth(NAME, folder)
    resized = F.interpolate(images, size=(28, 28), mode="bicubic", antialias=True).clamp(0, 1)
    expected = F.interpolate(network(resized)[:, None], size=(31, 31), mode="bilinear", align_corners=True)[:, 0]
    torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [NAME, "tiny"])
def test_items_of_a_batch_are_independent(name: str, folder: Path) -> None:
    weights = folder if name == NAME else "random:1"
    images, network = _images(3, 48, 64), load_depth(name, weights)
    pieces = torch.cat([network(images[:2]), network(images[2:])])
    torch.testing.assert_close(pieces, network(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [NAME, "tiny"])
def test_bfloat16_stays_close(name: str, folder: Path) -> None:
    weights = folder if name == NAME else "random:1"
    images = _images(1, 56, 56)
    rough = load_depth(name, weights, execution=Execution("bfloat16"))
    exact = load_depth(name, weights)(images)
    assert rough(images).dtype == torch.float32
    assert (rough(images) - exact).norm() / exact.norm() < 0.05
    assert rough.settings["precision"] == "bfloat16"


@pytest.mark.parametrize("name", [NAME, "tiny"])
def test_stays_in_eval_mode_without_gradients(name: str, folder: Path) -> None:
    network = load_depth(name, folder if name == NAME else "random:1")
    assert isinstance(network, torch.nn.Module)
    assert isinstance(network, DepthNetwork)
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_untrained_network_has_the_published_number_of_parameters() -> None:
    """24.8 million (Depth Anything V2, table 1); the other sizes are not built for a test."""
    network = load_depth(NAME, "random:1")
    assert isinstance(network, torch.nn.Module)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == 24.8
    assert network.source.location == "random:1"


@pytest.mark.slow
@pytest.mark.parametrize(("size", "millions"), [("base", 97.5), ("large", 335.3)])
def test_larger_untrained_networks_have_the_published_number_of_parameters(size: str, millions: float) -> None:
    assert round(sum(parameter.numel() for parameter in build(size).parameters()) / 1e6, 1) == millions


def test_both_files_come_from_one_commit_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def fetch(repository: str, filename: str, revision: str | None, option: str) -> tuple[Path, str]:
        asked.append((repository, filename, revision))
        return folder / filename, "c0ffee"

    monkeypatch.setattr(hub, "fetch", fetch)
    source = load_depth("depth_anything_v2_base@v1").source
    repository = "depth-anything/Depth-Anything-V2-Base-hf"
    assert asked == [(repository, "config.json", "v1"), (repository, "model.safetensors", "c0ffee")]
    assert (source.origin, source.revision, source.licence) == ("hub", "c0ffee", "cc-by-nc-4.0")


def test_tiny_weights_from_a_file(tmp_path: Path) -> None:
    expected = load_depth("tiny", "random:3")
    assert isinstance(expected, torch.nn.Module)
    path = tmp_path / "tiny.safetensors"
    safetensors.torch.save_file(expected.network.state_dict(), path)
    images = _images(1, 40, 56)
    assert torch.equal(load_depth("tiny", path)(images), expected(images))


def test_tiny_warns_that_it_is_not_for_real_video() -> None:
    assert (
        "trained on rendered scenes only; not meant for real video" in load_depth("tiny", "random").notes((112, 112))[0]
    )


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        LilaError, match=r"depth network among tiny, depth_anything_v2_small.* or files:DIR .* found midas"
    ):
        load_depth("midas")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LilaError, match=rf"weights of {NAME} at .*model\.safetensors, found no such file; .* --depth-w"
    ):
        load_depth(NAME, tmp_path)


def test_a_folder_without_a_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(
        LilaError, match=rf"expected Depth Anything V2 in {folder} \(config\.json and model\.safetensors"
    ):
        load_depth(NAME, folder)


def test_incomplete_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["surplus"] = tensors.pop("head.conv3.bias")
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        LilaError, match=r"found 1 missing \(head\.conv3\.bias\) and 1 unexpected \(surplus\); give another"
    ):
        load_depth(NAME, folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["fusion_hidden_size"] = 16
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LilaError, match=rf"expected Depth Anything V2 in {folder} .* cannot be read"):
        load_depth(NAME, folder)


def test_metric_depth_and_other_patches_are_refused(tmp_path: Path) -> None:
    for kind, patch in (("metric", 14), ("relative", 16)):
        small_network(kind, patch).save_pretrained(tmp_path / kind)
        with pytest.raises(
            LilaError, match=rf"relative inverse depth on patches of 14 px in .*{kind} depth on {patch} px"
        ):
            load_depth(NAME, tmp_path / kind)


def _images(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))
