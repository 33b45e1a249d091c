"""The frozen encoder against timm's own passes, and that it stays frozen."""

from __future__ import annotations

from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lila_cues.networks import Execution, FrozenEncoder, load_encoder
from lila_cues.networks.encoder import interpolate_positions, taps
from stores.errors import LilaError

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def plain() -> FrozenEncoder:
    return load_encoder("dinov2_vits14", "random:1")


@pytest.fixture(scope="module")
def tiny() -> FrozenEncoder:
    return load_encoder("tiny", "random:1")


@pytest.mark.parametrize("size", ["16x16", "34x60", "37x37", "60x34"])
@pytest.mark.parametrize(("kind", "offset"), [("plain", 0.1), ("registers", 0.0)])
def test_positions_equal_the_stored_values(shared: Path, kind: str, offset: float, size: str) -> None:
    stored = np.load(shared / "conformance" / "pos_embed.npz")
    learned = torch.from_numpy(stored["pos_embed"])[:, 1:].transpose(1, 2).reshape(1, 6, 37, 37).float()
    height, width = (int(side) for side in size.split("x"))
    resized = interpolate_positions(learned, (height, width), offset)
    assert (resized - torch.from_numpy(stored[f"{kind}_{size}"])).abs().max() < 1e-5


class NoFloat64(TorchDispatchMode):
    """Refuse what Apple's GPUs refuse."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device.type == "mps" and result.dtype == torch.float64:
            raise TypeError(f"{func} gives float64 on mps")
        return result


@pytest.mark.parametrize("offset", [0.1, 0.0])
def test_positions_are_resized_on_a_device_without_float64(offset: float) -> None:
    with FakeTensorMode(), NoFloat64():
        resized = interpolate_positions(torch.empty(1, 6, 4, 4, device="mps"), (6, 5), offset)
    assert (resized.device.type, resized.dtype, resized.shape) == ("mps", torch.float32, (1, 6, 6, 5))


@pytest.mark.parametrize("grid", [(16, 16), (37, 50), (37, 37), (2, 3), (60, 107), (1, 1)])
@pytest.mark.parametrize("learned", [(37, 37), (14, 20)])
def test_positions_are_interpolated_as_torch_does(learned: tuple[int, int], grid: tuple[int, int]) -> None:
    positions = torch.randn(1, 5, *learned, generator=torch.Generator().manual_seed(0))
    antialiased = F.interpolate(positions, size=grid, mode="bicubic", antialias=True)
    scale = tuple((new + 0.1) / old for new, old in zip(grid, learned, strict=True))
    plain = positions if grid == learned else F.interpolate(positions, scale_factor=scale, mode="bicubic")
    torch.testing.assert_close(interpolate_positions(positions, grid, 0.0), antialiased, atol=1e-5, rtol=0)
    torch.testing.assert_close(interpolate_positions(positions, grid, 0.1), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_positions_on_their_own_grid_are_unchanged(offset: float) -> None:
    positions = torch.randn(1, 5, 37, 37)
    assert torch.equal(interpolate_positions(positions, (37, 37), offset), positions)


def test_positions_do_not_depend_on_autocast() -> None:
    positions = torch.randn(1, 5, 37, 37)
    expected = interpolate_positions(positions, (20, 30), 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(interpolate_positions(positions, (20, 30), 0.1), expected)


class Positions(torch.nn.Module):
    """Positions for images of any size, on patches of 8 px."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset
        self.learned = torch.nn.Parameter(torch.randn(1, 3, 6, 5), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return interpolate_positions(self.learned, (images.shape[2] // 8, images.shape[3] // 8), self.offset)


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_one_traced_graph_serves_all_grids(offset: float) -> None:
    """The learned grid included, which comes back unchanged."""
    positions, dynamic = Positions(offset), torch.export.Dim.DYNAMIC
    jaxtyping.config.update("jaxtyping_disable", True)  # traced sizes are symbols
    try:
        example = torch.zeros(1, 3, 32, 56)
        traced = torch.export.export(positions, (example,), dynamic_shapes=({2: dynamic, 3: dynamic},)).module()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    for height, width in ((6, 5), (6, 9), (4, 7), (20, 3)):
        images = torch.zeros(1, 3, 8 * height, 8 * width)
        assert torch.equal(traced(images), positions(images))


def test_real_weights_give_the_tokens_of_timm(shared: Path) -> None:
    """ViT-Ti: mean and std ½, positions as timm resizes them, on a grid that is not square."""
    weights = shared / "data" / "weights" / "vit_tiny_patch16_224.pth"
    encoder = load_encoder("vit_tiny_patch16_224", weights)
    reference = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True).eval()
    reference.load_state_dict(torch.load(weights, weights_only=True))
    images = _images(2, 48, 80)
    with torch.no_grad():
        expected = reference.forward_intermediates((images - 0.5) / 0.5, indices=[2, 5, 8, 11], norm=True)[1]
    for ours, theirs in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-5)  # positions differ by 1e-6
    assert (encoder.name, encoder.width, encoder.patch_size) == ("vit_tiny_patch16_224", 192, 16)


@pytest.mark.parametrize(
    ("name", "offset", "front"), [("dinov2_vits14", 0.1, 1), ("dinov2_vits14_reg", 0.0, 0)], ids=["plain", "registers"]
)
def test_dinov2_equals_timm_except_for_its_positions(name: str, offset: float, front: int) -> None:
    encoder = load_encoder(name, "random:2")
    tensors = encoder.vit.state_dict()
    learned = tensors["pos_embed"][:, front:].transpose(1, 2).unflatten(2, (37, 37))
    resized = interpolate_positions(learned, (3, 5), offset).flatten(2).transpose(1, 2)
    tensors = {**tensors, "pos_embed": torch.cat([tensors["pos_embed"][:, :front], resized], dim=1)}
    architecture = "vit_small_patch14_dinov2" if front else "vit_small_patch14_reg4_dinov2"
    reference = timm.create_model(architecture, img_size=(42, 70), num_classes=0).eval()
    reference.load_state_dict(tensors)
    images = _images(1, 42, 70)
    with torch.no_grad():
        expected = reference.forward_intermediates((images - MEAN) / STD, indices=[2, 5, 8, 11], norm=True)[1]
    for ours, theirs in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_dinov3_equals_timm() -> None:
    encoder = load_encoder("dinov3_vits16", "random:3")
    images = _images(1, 32, 64)
    with torch.no_grad():
        tokens = encoder.vit.forward_features((images - MEAN) / STD)
    expected = tokens[:, 5:].transpose(1, 2).unflatten(2, (2, 4))
    torch.testing.assert_close(encoder.grid(images), expected, atol=1e-5, rtol=1e-5)
    assert [tuple(tap.shape) for tap in encoder(images)] == [(1, 384, 2, 4)] * 4


def test_taps_of_published_depths() -> None:
    assert taps(12) == (2, 5, 8, 11)
    assert taps(24) == (4, 11, 17, 23)
    assert taps(40) == (9, 19, 29, 39)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 7, 16, 32, 48])
def test_taps_are_ordered_and_include_the_last_block(depth: int) -> None:
    chosen = taps(depth)
    assert sorted(chosen) == list(chosen)
    assert chosen[0] >= 0
    assert chosen[-1] == depth - 1
    assert len(set(chosen)) == min(4, depth)


def test_stays_in_eval_mode_without_gradients(plain: FrozenEncoder) -> None:
    plain.train()
    assert not any(module.training for module in plain.modules())
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    assert not any(tap.requires_grad for tap in plain(_images(1, 28, 28)))


def test_a_gradient_flows_to_the_images(plain: FrozenEncoder) -> None:
    images = _images(1, 28, 28).requires_grad_()
    plain.grid(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in plain.parameters())


def test_parameters_are_trained_where_they_are_asked_to() -> None:
    encoder = load_encoder("tiny", "random:1").requires_grad_(True)
    encoder.grid(_images(1, 32, 32)).square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in encoder.parameters())


def test_stays_frozen_inside_a_trained_network(tiny: FrozenEncoder) -> None:
    whole = torch.nn.ModuleDict({"encoder": tiny, "head": torch.nn.Dropout()})
    whole.train()
    assert whole["head"].training
    assert not tiny.vit.training


def test_gradients_reach_a_head_on_the_tokens(tiny: FrozenEncoder) -> None:
    head = torch.nn.Conv2d(tiny.width, 2, 1)
    head(tiny.grid(_images(1, 56, 56))).sum().backward()
    assert head.weight.grad is not None


def test_items_of_a_batch_are_independent(tiny: FrozenEncoder) -> None:
    images = _images(5, 112, 56)
    for whole, *parts in zip(tiny(images), tiny(images[:2]), tiny(images[2:]), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=1e-5)


def test_bfloat16_is_close_and_returns_float32(tiny: FrozenEncoder) -> None:
    images = _images(1, 56, 56)
    rough = load_encoder("tiny", "random:1", execution=Execution("bfloat16")).grid(images)
    exact = tiny.grid(images)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() / exact.norm() < 0.03


def test_sides_must_be_multiples_of_the_patch_size(plain: FrozenEncoder) -> None:
    with pytest.raises(
        LilaError, match=r"multiples of 14, the patch size of dinov2_vits14, found 28×30; pad or resize"
    ):
        plain(_images(1, 28, 30))


@pytest.mark.parametrize("name", ["dinov2_vits15", "resnet18_of_mine"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(
        LilaError, match=f"expected an encoder named tiny, dinov2_vits14, .* found {name}; `lila-cues mod"
    ):
        load_encoder(name)


@pytest.mark.parametrize("name", ["resnet18", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224"])
def test_other_architectures_are_refused(name: str) -> None:
    with pytest.raises(LilaError, match=rf"expected a plain vision transformer, found {name}, a \w+; choose a ViT"):
        load_encoder(name, "random")


def _images(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * width))
