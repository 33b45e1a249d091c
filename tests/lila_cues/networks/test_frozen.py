"""The xformers backend against PyTorch's own, by a stand-in with xformers' axis order."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lila_cues.networks import Execution, load_depth, load_encoder
from stores.errors import LilaError


class StandIn(ModuleType):
    """xformers.ops: tokens before heads, B×N×H×D."""

    calls = 0

    def memory_efficient_attention(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        self.calls += 1
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        likeness = torch.einsum("bqhd,bkhd->bhqk", query, key) * scale
        return torch.einsum("bhqk,bkhd->bqhd", likeness.softmax(-1), value)


@pytest.fixture
def xformers(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    ops = StandIn("xformers.ops")
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    return ops


@pytest.mark.parametrize(("name", "blocks"), [("tiny", 6), ("dinov2_vits14", 12), ("dinov3_vits16", 12)])
def test_encoders_give_the_same_tokens(xformers: StandIn, name: str, blocks: int) -> None:
    other = load_encoder(name, "random:1", execution=Execution(attention="xformers"))
    images = torch.rand(2, 3, 4 * other.patch_size, 3 * other.patch_size)
    torch.testing.assert_close(other.grid(images), load_encoder(name, "random:1").grid(images), atol=1e-5, rtol=1e-5)
    assert xformers.calls == blocks
    assert other.settings["attention"] == "xformers"


def test_depth_gives_the_same_map(xformers: StandIn) -> None:
    images = torch.rand(1, 3, 42, 56)
    one, other = (
        load_depth("depth_anything_v2_small", "random:1", execution=Execution(attention=name))
        for name in ("sdpa", "xformers")
    )
    torch.testing.assert_close(other(images), one(images), atol=1e-6, rtol=1e-4)
    assert xformers.calls == 12
    assert other.settings["attention"] == "xformers"


def test_masked_attention_stays_with_pytorch(xformers: StandIn) -> None:
    query = torch.rand(1, 2, 5, 4)
    with Execution(attention="xformers").attend():
        F.scaled_dot_product_attention(query, query, query, attn_mask=torch.ones(5, 5, dtype=torch.bool))
        F.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert xformers.calls == 0


def test_missing_xformers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    with pytest.raises(LilaError, match=r"xformers .* not installed; install it with pip install 'lila-pixels\[gpu\]'"):
        Execution(attention="xformers")


def test_unknown_backends_are_refused() -> None:
    with pytest.raises(LilaError, match="attention backend among sdpa, xformers, found flash; pass --attention sdpa"):
        Execution(attention="flash")


@pytest.mark.gpu
def test_real_xformers_gives_the_same_tokens() -> None:
    pytest.importorskip("xformers.ops", reason="xformers is not installed")
    images = torch.rand(2, 3, 224, 224, device="cuda")
    one, other = (
        load_encoder("dinov2_vits14", "random:1", "cuda", Execution(attention=name)) for name in ("sdpa", "xformers")
    )
    torch.testing.assert_close(other.grid(images), one.grid(images), atol=1e-3, rtol=1e-3)
