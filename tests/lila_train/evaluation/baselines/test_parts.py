"""FeatUp's and NAF's compiled parts in PyTorch, and the encoder blocks that FlowFeat reads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from lila_cues.networks import load_encoder
from lila_train.evaluation.baselines import featup, flowfeat, naf
from stores.errors import LilaError


def test_the_extension_of_featup_is_a_filter_per_position():
    draw = torch.Generator().manual_seed(0)
    padded, filters = torch.randn(2, 3, 7, 9, generator=draw), torch.randn(2, 5, 7, 3, 3, generator=draw)
    found = featup.adaptive_convolution(padded, filters)
    for b, c, y, x in ((0, 0, 0, 0), (1, 2, 4, 6), (0, 1, 2, 3)):
        assert found[b, c, y, x].item() == pytest.approx(
            (padded[b, c, y : y + 3, x : x + 3] * filters[b, y, x]).sum().item(), rel=1e-4
        )


def test_neighborhoods_move_inwards_at_the_borders():
    assert naf.neighbors(6, 3, 1).tolist() == [[0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [3, 4, 5]]
    assert naf.neighbors(8, 3, 2).tolist() == [[0, 1, 2], [0, 1, 2], [1, 2, 3], [1, 2, 3]]
    with pytest.raises(LilaError, match="images of at least 3 cells of 4 pixels for NAF's attention, found 9 pixels"):
        naf.neighbors(9, 3, 4)


def test_neighborhood_attention_is_softmax_attention_within_them():
    draw = torch.Generator().manual_seed(1)
    queries = torch.randn(2, 40, 6, 2, 4, generator=draw)
    keys, values = (torch.randn(2, 10, 3, 2, width, generator=draw) for width in (4, 5))
    repeated = [x.repeat_interleave(4, dim=1).repeat_interleave(2, dim=2) for x in (keys, values)]
    found = naf.neighborhood_attention(queries, *repeated, (3, 3), (4, 2))
    assert found.shape == (2, 40, 6, 2, 5)
    for b, y, x, head in ((0, 0, 0, 0), (1, 39, 5, 1), (0, 17, 2, 0), (1, 18, 3, 1)):
        first_y, first_x = min(max(y // 4 - 1, 0), 7), 0
        at = [(first_y + i, first_x + j) for i in range(3) for j in range(3)]
        scores = torch.stack([queries[b, y, x, head] @ keys[b, i, j, head] / 2 for i, j in at])
        expected = sum(w * values[b, i, j, head] for w, (i, j) in zip(scores.softmax(0), at, strict=True))
        torch.testing.assert_close(found[b, y, x, head], expected)


def test_flowfeat_reads_the_raw_blocks_and_needs_one_prefix_token():
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(2))
    encoder = load_encoder("vit_tiny_patch16_224", "random:1")
    decoder = nn.Module()
    decoder.forward = lambda layers, size: layers.layer_4[:, 1:, :1].mT.unflatten(2, (4, 4)).repeat(1, 1, 16, 16)
    found = flowfeat.call(decoder, encoder, image)
    assert found.shape == (1, 1, 48, 64)
    with torch.no_grad():
        normed = encoder.vit.norm(_raw_output(encoder, nn.functional.pad(image, (0, 0, 0, 16), mode="replicate")))
    padded = encoder.grid(nn.functional.pad(image, (0, 0, 0, 16), mode="replicate"))
    torch.testing.assert_close(normed[:, 1:].mT.unflatten(2, (4, 4)), padded)
    assert flowfeat.hooked_blocks(encoder) == (2, 5, 8, 11)
    with pytest.raises(LilaError, match="a class token and no registers for FlowFeat, found vit_small_patch14_reg4"):
        flowfeat.build(load_encoder("vit_small_patch14_reg4_dinov2", "random:1"))


def _raw_output(encoder, image: torch.Tensor) -> torch.Tensor:
    with flowfeat.hooked(encoder) as outputs:
        encoder(image)
    return outputs[11][0]


def test_outputs_of_another_thread_are_not_collected():
    encoder = load_encoder("vit_tiny_patch16_224", "random:1")
    with flowfeat.hooked(encoder) as outputs, ThreadPoolExecutor(1) as pool:
        pool.submit(encoder, torch.rand(1, 3, 32, 32)).result()
        assert outputs[11] == []
        encoder(torch.rand(1, 3, 16, 32))
        assert [output.shape[1] for output in outputs[11]] == [3]
    encoder(torch.rand(1, 3, 16, 32))
    assert len(outputs[11]) == 1
