"""Flow networks: a real pair with known flow, torchvision's own passes, small and large images, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import optical_flow

from lila_cues.networks import Execution, FlowNetwork, load_flow
from stores.errors import LilaError

UPDATES = 8  # for speed: 0.284 px on Sintel; the default 12 give 0.271, as 20 and more do


@dataclass(frozen=True)
class Known:
    """Two frames of Sintel, 1×3×436×1024 in [0, 1], and the flow between them in px, 2×436×1024."""

    first: Tensor
    second: Tensor
    flow: Tensor
    weights: Path

    def error(self, flow: Tensor) -> float:
        """Mean end-point error in px."""
        return float((flow[0] - self.flow).norm(dim=0).mean())


@pytest.fixture(scope="module")
def sintel(shared: Path) -> Known:
    folder = shared / "data" / "flow" / "sintel_alley_1"
    raw = (folder / "frame_0002.flo").read_bytes()
    width, height = np.frombuffer(raw, np.int32, 2, 4)
    flow = torch.tensor(np.frombuffer(raw, np.float32, -1, 12)).view(height, width, 2).permute(2, 0, 1)
    frames = [_frame(folder / f"frame_000{number}.png") for number in (2, 3)]
    return Known(frames[0], frames[1], flow, shared / "data" / "weights" / "raft_small.pth")


@pytest.fixture(scope="module")
def raft_error(sintel: Known) -> float:
    return sintel.error(load_flow("raft_small", sintel.weights, updates=UPDATES)(sintel.first, sintel.second))


def test_raft_small_on_sintel(raft_error: float) -> None:
    assert raft_error < 0.35


def test_bfloat16_is_within_one_per_cent_on_sintel(sintel: Known) -> None:
    """On a part of the frame: a CPU without bfloat16 instructions takes minutes for the whole."""
    y, x = slice(120, 312), slice(320, 704)
    part = replace(sintel, first=sintel.first[..., y, x], second=sintel.second[..., y, x], flow=sintel.flow[:, y, x])
    errors = {}
    for precision in ("float32", "bfloat16"):
        network = load_flow("raft_small", sintel.weights, updates=UPDATES, execution=Execution(precision))
        errors[precision] = part.error(network(part.first, part.second))
    assert errors["bfloat16"] < 1.01 * errors["float32"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_on_a_gpu_is_within_one_per_cent_on_sintel(sintel: Known, precision: str) -> None:
    errors = {}
    for name in ("float32", precision):
        network = load_flow("raft_small", sintel.weights, "cuda", UPDATES, execution=Execution(name))
        errors[name] = sintel.error(network(sintel.first.cuda(), sintel.second.cuda()).cpu())
    assert errors[precision] < 1.01 * errors["float32"]


def test_dis_on_sintel(sintel: Known) -> None:
    assert sintel.error(load_flow("dis")(sintel.first, sintel.second)) < 0.3


@pytest.mark.parametrize("name", ["raft_small", "raft_large"])
def test_raft_equals_torchvision(name: str) -> None:
    """Sides that are multiples of 8; images in [−1, 1]; the last of its updates."""
    network = load_flow(name, "random:1", updates=3)
    first, second = _textures(2, 128, 136)
    reference = getattr(optical_flow, name)(weights=None).eval()
    reference.load_state_dict(network.network.state_dict())  # type: ignore[attr-defined]
    with torch.no_grad():
        forward = reference(first * 2 - 1, second * 2 - 1, num_flow_updates=3)[-1]
        backward = reference(second * 2 - 1, first * 2 - 1, num_flow_updates=3)[-1]
    torch.testing.assert_close(network(first, second), forward, atol=1e-3, rtol=1e-3)
    pairs = torch.tensor([[3, 1], [0, 2], [2, 0], [1, 3]])
    between = network.between(torch.cat([first, second]), pairs)
    expected = torch.stack([backward[1], forward[0], backward[0], forward[1]])
    torch.testing.assert_close(between, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [(144, 200), (131, 133), (96, 128), (150, 100)])
@pytest.mark.parametrize("name", ["raft_small", "dis"])
def test_a_shift_is_found_at_any_size(shared: Path, name: str, size: tuple[int, int]) -> None:
    """x comes first, and flow goes from the first image to the second, also where images are enlarged."""
    weights = shared / "data" / "weights" / "raft_small.pth" if name != "dis" else None
    first, second = _shifted(size, right=3, down=-2)
    flows = load_flow(name, weights).between(torch.cat([first, second]), torch.tensor([[0, 1], [1, 0]]))
    assert flows.shape == (2, 2, *size)
    for flow, sign in zip(flows, (1, -1), strict=True):
        inner = flow[:, 20:-20, 20:-20].flatten(1).median(dim=1).values
        torch.testing.assert_close(inner, sign * torch.tensor([3.0, -2.0]), atol=0.25, rtol=0)


@pytest.mark.parametrize("name", ["raft_small", "dis"])
def test_items_of_a_batch_are_independent(name: str) -> None:
    first, second = _textures(3, 128, 128)
    network = load_flow(name, "random:1" if name != "dis" else None)
    whole = network(first, second)
    assert whole.dtype == torch.float32
    apart = torch.cat([network(first[item : item + 1], second[item : item + 1]) for item in range(3)])
    torch.testing.assert_close(whole, apart, atol=1e-3, rtol=1e-3)


def test_large_batches_are_split() -> None:
    first, second = _textures(3, 128, 128)  # six images, of which a CPU takes four at a time
    network = load_flow("raft_small", "random:1", updates=2)
    pairs = torch.tensor([[0, 3], [1, 4], [2, 5], [3, 0], [4, 1], [5, 2]])
    pieces = torch.cat([network(first, second), network(second, first)])
    torch.testing.assert_close(network.between(torch.cat([first, second]), pairs), pieces, atol=1e-3, rtol=1e-3)


def test_features_of_an_image_are_computed_once() -> None:
    """Three pairs from one anchor, both ways: four images, not twelve."""
    network = load_flow("raft_small", "random:1", updates=1)
    seen = {"feature_encoder": 0, "context_encoder": 0}
    for name in seen:
        part = network.network.get_submodule(name)  # type: ignore[attr-defined]

        def counted(images: Tensor, name: str = name, forward: Callable[[Tensor], Tensor] = part.forward) -> Tensor:
            seen[name] += len(images)
            return forward(images)

        setattr(network, {"feature_encoder": "_features", "context_encoder": "_context"}[name], counted)
    there = torch.tensor([[0, 1], [0, 2], [0, 3]])
    network.between(torch.cat(_textures(2, 128, 128)), torch.cat([there, there.flip(1)]))
    assert seen == {"feature_encoder": 4, "context_encoder": 4}


def test_the_number_of_updates_is_used_and_recorded() -> None:
    first, second = _textures(1, 128, 128)
    few, many = (load_flow("raft_small", "random:1", updates=updates) for updates in (1, 4))
    assert not torch.allclose(few(first, second), many(first, second))
    assert (few.settings["updates"], many.settings["updates"]) == (1, 4)
    assert load_flow("raft_small", "random:1").settings["updates"] == 12


def test_small_images_are_enlarged_with_a_note() -> None:
    network = load_flow("raft_small", "random:1")
    (note,) = network.notes((96, 128))
    assert note.startswith("raft_small needs sides of 128 px: images of 96×128 are enlarged to 128×171 for it")
    assert network.notes((128, 200)) == ()


def test_dis_refuses_images_smaller_than_a_patch() -> None:
    images = torch.rand(1, 3, 12, 40)
    with pytest.raises(LilaError, match="at least 16×16 px for dis, found 12×40; choose a larger cue grid"):
        load_flow("dis")(images, images)


def test_dis_does_not_depend_on_the_number_of_threads() -> None:
    first, second = _textures(1, 112, 112)
    threads = cv2.getNumThreads()
    flows = []
    for count in (1, 2, 4):
        cv2.setNumThreads(count)
        flows.append(load_flow("dis")(first, second))
    cv2.setNumThreads(threads)
    assert torch.equal(flows[0], flows[1])
    assert torch.equal(flows[0], flows[2])


def test_stays_in_eval_mode_without_gradients() -> None:
    network = load_flow("raft_large", "random:1")
    assert isinstance(network, torch.nn.Module)
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_of_the_other_size_are_refused(shared: Path) -> None:
    with pytest.raises(LilaError, match=r"expected the 169 tensors of the chosen .* with --flow-weights"):
        load_flow("raft_large", shared / "data" / "weights" / "raft_small.pth")


def test_unknown_names_and_invalid_options_are_refused() -> None:
    with pytest.raises(
        LilaError, match="flow network among dis, raft_small, raft_large, found gma; pass one with --flow"
    ):
        load_flow("gma")
    with pytest.raises(LilaError, match="at least one update of RAFT, found 0; pass more with --flow-updates"):
        load_flow("raft_small", "random", updates=0)
    with pytest.raises(LilaError, match="neither weights nor updates for --flow dis"):
        load_flow("dis", updates=4)


def test_all_are_flow_networks() -> None:
    for network in (load_flow("dis"), load_flow("raft_small", "random")):
        assert isinstance(network, FlowNetwork)
        assert all(isinstance(value, get_args(str | bool | int | None)) for value in network.settings.values())


def _frame(path: Path) -> Tensor:
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def _textures(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(height + width)
    coarse = torch.rand(2 * count, 3, height // 4, width // 4, generator=draw)
    first, second = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1).chunk(2)
    return first, second


def _shifted(size: tuple[int, int], right: int, down: int) -> tuple[Tensor, Tensor]:
    """Return a texture, and the same moved by integer pixels: (y, x) moves to (y + down, x + right)."""
    height, width = size
    whole = _textures(1, height + 40, width + 40)[0]
    first = whole[..., 20 : 20 + height, 20 : 20 + width]
    second = whole[..., 20 - down : 20 - down + height, 20 - right : 20 - right + width]
    return first.contiguous(), second.contiguous()
