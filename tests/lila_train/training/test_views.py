"""The two views of a pair: sign of the flow, flips, masks, normalization."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lila_train.training.config import TrainConfig
from lila_train.training.crops import make_views
from lila_train.training.data import PairBatch
from lila_train.training.losses import count_valid, losses_of
from lila_train.training.objective import InContext

SIZE = 48
CONFIG = TrainConfig(steps=1, crop_size=SIZE, channels=5)
PLAIN = (0, 0, SIZE, 0)
FLIPPED = (0, 0, SIZE, 1)


def shear(context: tuple[int, ...] = PLAIN, query: tuple[int, ...] = PLAIN) -> PairBatch:
    """A scene whose rows move to the right by y/20 px, so that backward flow is exactly forward flow negated."""
    slide = (torch.arange(SIZE) / 20).view(1, SIZE, 1).expand(1, SIZE, SIZE)
    flow = torch.stack((slide, torch.zeros_like(slide)), dim=1)
    torch.manual_seed(0)
    return PairBatch(
        rgb=torch.randint(0, 256, (1, 2, 3, SIZE, SIZE), dtype=torch.uint8),
        cues={
            "depth": 100 + 50 * torch.rand(1, 2, SIZE, SIZE),
            "flow_forward": flow,
            "flow_backward": -flow,
            "features": torch.randn(1, 2, 5, SIZE // 4, SIZE // 4),
        },
        boxes=torch.tensor([[context, query]]),
        base_hflip=torch.tensor([False]),
        channels=torch.arange(5)[None],
        clips=torch.tensor([0]),
    )


def test_one_map_predicts_both_views_because_the_query_flow_changes_sign() -> None:
    context, query = make_views(shear(), CONFIG)
    torch.testing.assert_close(context.target[:, :2], query.target[:, :2])
    assert context.target[:, 0].std() > 0.5


def test_a_flip_moves_pixels_and_leaves_the_axes_of_the_flow() -> None:
    plain, _ = make_views(shear(), CONFIG)
    flipped, _ = make_views(shear(context=FLIPPED), CONFIG)
    torch.testing.assert_close(flipped.target, plain.target.flip(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(flipped.image, plain.image.flip(-1))


def test_views_flip_independently() -> None:
    _, plain = make_views(shear(), CONFIG)
    context, query = make_views(shear(query=FLIPPED), CONFIG)
    torch.testing.assert_close(context.image, make_views(shear(), CONFIG)[0].image)
    torch.testing.assert_close(query.image, plain.image.flip(-1))


def test_features_have_unit_length_and_flow_and_depth_are_standardized() -> None:
    context, query = make_views(shear(), CONFIG)
    torch.testing.assert_close(context.target[:, 3:].norm(dim=1), torch.ones(1, SIZE, SIZE))
    for channels in (slice(0, 2), slice(2, 3)):
        both = torch.cat((context.target[:, channels], query.target[:, channels]))
        assert abs(both.mean().item()) < 1e-4
        assert 0.95 < both.std().item() <= 1.0


def test_inconsistent_flow_and_far_depth_are_masked() -> None:
    batch = shear()
    backward, depth = batch.cues["flow_backward"].clone(), batch.cues["depth"].clone()
    backward[:, :, :, : SIZE // 2] += 10
    depth[:, 0, : SIZE // 2] = 1.0
    context, _ = make_views(replace(batch, cues={**batch.cues, "flow_backward": backward, "depth": depth}), CONFIG)
    flow, near = context.valid[:, :2], context.valid[:, 2]
    assert not flow[..., : SIZE // 2 - 4].any()
    assert flow[..., SIZE // 2 + 1 :].all()
    assert not near[:, : SIZE // 2].any()
    assert near[:, SIZE // 2 :].all()
    assert context.valid[:, 3:].all()
    assert context.valid.shape == context.target.shape
    cell = context.weight[0, :, SIZE - 1, SIZE - 1]
    assert cell.tolist() == [1, 1, 1, 1]
    assert context.weight[0, :, 0, 0].prod() == 0


def test_mirrored_roles_swap_the_frames_and_the_signs() -> None:
    batch = shear()
    forward = make_views(batch, CONFIG)
    mirrored = make_views(batch, CONFIG.replace(roles="mirrored"))
    torch.testing.assert_close(mirrored[0].image, forward[1].image)
    torch.testing.assert_close(mirrored[0].target[:, :2], -forward[0].target[:, :2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mirrored[1].target[:, 2:], forward[0].target[:, 2:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("cues", "channels"), [(("features",), 5), (("depth", "features"), 6), (("flow", "features"), 7), (("depth",), 1)]
)
def test_only_the_active_cues_are_targets(cues: tuple[str, ...], channels: int) -> None:
    context, _ = make_views(shear(), CONFIG.replace(cues=cues))
    assert context.target.shape[1] == context.valid.shape[1] == channels


def test_online_features_join_late_and_have_unit_length() -> None:
    batch = replace(shear(), channels=torch.tensor([[4, 0, 7]]))
    context, _ = make_views(batch, CONFIG.replace(distilled="online", channels=3))
    assert context.target.shape[1] == 3
    assert context.valid.shape[1] == 6
    features = context.with_features(torch.randn(1, 8, 6, 6)).target[:, 3:]
    torch.testing.assert_close(features.norm(dim=1), torch.ones(1, SIZE, SIZE))


def test_the_loss_reaches_the_features_of_both_views() -> None:
    context, query = make_views(shear(), CONFIG)
    features = torch.cat((context.image, query.image)).requires_grad_()
    (predicted,) = InContext(CONFIG)(*features.chunk(2), context, query)
    losses_of(predicted, query.target, query.valid, count_valid(query.valid), CONFIG).total.backward()
    assert features.grad is not None
    assert features.grad[0].abs().sum() > 0
    assert features.grad[1].abs().sum() > 0
