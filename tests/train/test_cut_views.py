"""What the two views of a pair hold: the sign of the flow, mirrors, masks, normalisation."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lila_train.method import cut_views, in_context_losses
from lila_train.pairs import PairBatch
from lila_train.settings import Method

SIZE = 48
WHOLE = (0, 0, SIZE, 0)
MIRRORED = (0, 0, SIZE, 1)


def shear(context: tuple[int, ...] = WHOLE, query: tuple[int, ...] = WHOLE) -> PairBatch:
    """A scene whose rows slide to the right by y/20 px, so that backward flow is forward flow negated, exactly."""
    slide = (torch.arange(SIZE) / 20).view(1, SIZE, 1).expand(1, SIZE, SIZE)
    flow = torch.stack((slide, torch.zeros_like(slide)), dim=1)
    torch.manual_seed(0)
    return PairBatch(
        rgb=torch.randint(0, 256, (1, 2, 3, SIZE, SIZE), dtype=torch.uint8),
        depth=100 + 50 * torch.rand(1, 2, SIZE, SIZE),
        flow_forward=flow,
        flow_backward=-flow,
        features=torch.randn(1, 2, 5, SIZE // 4, SIZE // 4),
        boxes=torch.tensor([[context, query]]),
        clips=torch.tensor([0]),
    )


def test_one_map_serves_both_views_because_the_query_flow_changes_sign() -> None:
    context, query = cut_views(shear(), SIZE)
    torch.testing.assert_close(context.cues[:, :2], query.cues[:, :2])
    assert context.cues[:, 0].std() > 0.5


def test_a_mirror_moves_pixels_and_leaves_the_axes_of_the_flow() -> None:
    plain, _ = cut_views(shear(), SIZE)
    mirrored, _ = cut_views(shear(context=MIRRORED), SIZE)
    torch.testing.assert_close(mirrored.cues, plain.cues.flip(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mirrored.image, plain.image.flip(-1))


def test_views_mirror_independently() -> None:
    _, plain = cut_views(shear(), SIZE)
    context, query = cut_views(shear(query=MIRRORED), SIZE)
    torch.testing.assert_close(context.image, cut_views(shear(), SIZE)[0].image)
    torch.testing.assert_close(query.image, plain.image.flip(-1))


def test_features_have_unit_length_and_flow_and_depth_are_standardised() -> None:
    context, query = cut_views(shear(), SIZE)
    torch.testing.assert_close(context.cues[:, 3:].norm(dim=1), torch.ones(1, SIZE, SIZE))
    for channels in (slice(0, 2), slice(2, 3)):
        both = torch.cat((context.cues[:, channels], query.cues[:, channels]))
        assert abs(both.mean().item()) < 1e-4
        assert 0.95 < both.std().item() <= 1.0


def test_flow_that_does_not_come_back_and_far_depth_are_masked() -> None:
    batch = shear()
    backward, depth = batch.flow_backward.clone(), batch.depth.clone()
    backward[:, :, :, : SIZE // 2] += 10
    depth[:, 0, : SIZE // 2] = 1.0
    context, _ = cut_views(replace(batch, flow_backward=backward, depth=depth), SIZE)
    assert not context.flow_valid[..., : SIZE // 2 - 4].any()
    assert context.flow_valid[..., SIZE // 2 + 1 :].all()
    assert not context.depth_valid[:, :, : SIZE // 2].any()
    assert context.depth_valid[:, :, SIZE // 2 :].all()
    assert context.valid[:, 3:].all()
    assert context.valid.shape == context.cues.shape


def test_the_loss_reaches_the_features_of_both_views() -> None:
    context, query = cut_views(shear(), SIZE)
    features: list[Tensor] = []

    def features_of(images: Tensor) -> Tensor:
        features.append(torch.cat((images, images.square()), dim=1).requires_grad_())
        return features[0]

    in_context_losses(features_of, context, query, Method(view_size=SIZE)).total.backward()
    gradient = features[0].grad
    assert gradient is not None
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() > 0
