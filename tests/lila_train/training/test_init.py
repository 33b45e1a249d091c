"""`init=pca`: the decoder starts as a linear upsampler of its encoder's principal components."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lila_train.model.init import principal_components
from lila_train.training.config import TrainConfig
from lila_train.training.distributed import Rank
from lila_train.training.step import TrainStep
from tests.lila_train.training import world

CONFIG = TrainConfig(steps=1, decoder_width=32, crop_size=48)


def axes_by_svd(tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    mean = tokens.mean(0)
    _, values, axes = np.linalg.svd(tokens - mean, full_matrices=False)
    return axes[:count] * np.sqrt(len(tokens)) / values[0], mean


@pytest.mark.parametrize("width", [16, 100], ids=["published shape", "more features than components"])
def test_the_decoder_before_its_norm_is_the_chain_of_resizes_of_projected_tokens(width: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(6, 3, 48, 48)
    step = TrainStep(world.encoder(), CONFIG.replace(decoder_width=2 * width))
    step.init_pca(images, Rank())
    found: list[Tensor] = []
    step.decoder.pixel.register_forward_hook(lambda module, inputs, output: found.append(output))
    tokens = step.encoder(images)
    with torch.no_grad():
        step.decoder(tokens, (48, 48))
        for level in (0, 1, 3):
            assert 0 < step.decoder.reduce[level].weight.abs().max() < 0.1 / np.sqrt(9)
            step.decoder.reduce[level].weight.zero_()
        step.decoder(tokens, (48, 48))
    count = min(width, 53)  # of 54 tokens
    axes, mean = axes_by_svd(tokens[2].movedim(1, -1).flatten(0, 2).double().numpy(), count)
    components = np.einsum("behw,ke->bkhw", tokens[2].double().numpy() - mean[:, None, None], axes)
    assert components.std((0, 2, 3)).max() == pytest.approx(1)
    chain = torch.from_numpy(components)
    for size in (6, 12, 24, 48):  # the second and the first level, twice the first, the image
        chain = F.interpolate(chain, (size, size), mode="bilinear", align_corners=True)
    after = found[1].double()
    signs = (after[:, :count] * chain).sum((0, 2, 3)).sign()[:, None, None]
    torch.testing.assert_close(after[:, :count] * signs, chain, atol=1e-4, rtol=0)
    assert not width > count or after[:, count:].abs().max() < 1e-4
    assert not torch.allclose(found[0].double(), after, atol=1e-3)


def test_components_do_not_depend_on_the_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, one after the other: what the first all-reduce sums, the second pass returns."""
    tokens = torch.randn(40, 12, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 13) + 3
    expected = principal_components(tokens, 5)
    halves = tokens[:25], tokens[25:]
    sent: list[Tensor] = []

    def record(self: Rank, values: Tensor) -> Tensor:
        sent.append(values)
        return values

    monkeypatch.setattr(Rank, "all_reduce_sum", record)
    for number, half in enumerate(halves):
        rank = Rank(number, 2)
        principal_components(half, 5, rank.all_reduce_sum, rank.is_main)
    moments = iter((sent[0] + sent[2], None))
    monkeypatch.setattr(Rank, "all_reduce_sum", lambda self, values: next(moments) if values.ndim == 1 else values)
    found = principal_components(halves[0], 5, Rank(0, 2).all_reduce_sum)
    for part, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-6)
    assert not sent[3].any()  # rank 1 takes the axes of rank 0


def test_axes_without_variance_are_zero() -> None:
    """Of three tokens in 12 dimensions two axes have variance."""
    axes, mean = principal_components(torch.randn(3, 12, generator=torch.Generator().manual_seed(2)), 4)
    assert axes.norm(dim=1).gt(0).tolist() == [True, True, False, False]
    assert mean.shape == (12,)
