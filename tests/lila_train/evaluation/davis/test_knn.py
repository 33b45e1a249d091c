"""The k-NN protocols: published sizes, labels of moving squares, steps in which the two differ."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.knn import DinoPropagation
from lila_train.evaluation.protocols import open_task
from lila_train.model.propagation import Propagation, Sizes
from tests.lila_train.evaluation.worlds import COLORS, HEIGHT, WIDTH, ColorModel, moving_squares, write_davis

LILA, DINO = Propagation(), DinoPropagation()


@pytest.mark.parametrize(
    ("propagation", "patch", "native", "frame", "grid"),
    [
        (LILA, 14, (480, 854), (476, 840), (60, 105)),
        (LILA, 8, (480, 854), (272, 480), (60, 105)),
        (LILA, 14, (854, 480), (840, 476), (105, 60)),
        (DINO, 8, (480, 854), (480, 832), (60, 104)),
        (DINO, 16, (480, 910), (480, 896), (30, 56)),
        (DINO, 14, (480, 854), (476, 840), (34, 60)),
        (DinoPropagation(short_side_px=960), 16, (480, 854), (960, 1664), (60, 104)),
        (Propagation(short_side_px=100), 16, (100, 100), (96, 96), (60, 60)),
    ],
)
def test_sizes_of_frames_and_grids(propagation, patch, native, frame, grid):
    assert propagation.sizes(native, patch) == Sizes(native, frame, grid)


def test_the_radius_in_pixels():
    assert Sizes((480, 854), (476, 840), (60, 105)).radius_px(25) == 96.0
    assert Sizes((480, 854), (480, 832), (30, 52)).radius_px(25) == 192.0


def test_published_settings(tmp_path):
    data = write_davis(tmp_path)
    for name, protocol in (("davis-knn@lila", LILA), ("davis-knn@dino", DINO)):
        assert (protocol.window, protocol.context_frames, protocol.topk, protocol.temperature) == (25, 8, 5, 0.1)
        assert open_task(name, data, EvalConfig()).rule == protocol
    assert (LILA.border, DINO.border) == ("replicate", "cut")
    assert open_task("davis-knn@dino960", data, EvalConfig()).rule == DinoPropagation(short_side_px=960)


@pytest.mark.parametrize("head", ["encoder_grid", "pixel_map"])
@pytest.mark.parametrize("protocol", [LILA, DINO], ids=["lila", "dino"])
def test_labels_follow_moving_squares(protocol, head):
    truth = moving_squares(6)
    model = ColorModel()
    sizes = Propagation(short_side_px=48, grid_short_side=24).sizes((HEIGHT, WIDTH), model.patch_size)
    features_of = partial(protocol.unit_features, feature_map=getattr(model, head), sizes=sizes, device=model.device)
    predicted = list(protocol.follow((COLORS[labels] for labels in truth), truth[0], features_of, sizes))
    assert len(predicted) == 5
    for labels, expected in zip(predicted, truth[1:], strict=True):
        assert labels.shape == (HEIGHT, WIDTH)
        assert labels.dtype == np.uint8
        assert (labels == expected).mean() > 0.93
        assert set(np.unique(labels)) == {0, 1, 2}


def test_features_of_a_cell_have_unit_length_and_the_grid_s_size():
    sizes = Sizes((48, 64), (24, 32), (6, 8))
    cells = LILA.unit_features(COLORS[moving_squares(1)[0]], ColorModel().pixel_map, sizes, torch.device("cpu"))
    assert cells.shape == (3, 6, 8)
    torch.testing.assert_close(cells.norm(dim=0), torch.ones(6, 8))


def test_dino_stretches_each_channel_before_the_argmax():
    labels = torch.tensor([[[0.9, 0.6]], [[0.1, 0.4]]])
    sizes = Sizes((1, 2), (1, 2), (1, 2))
    assert LILA.hard_labels(labels, sizes).tolist() == [[0, 0]]
    assert DINO.hard_labels(labels, sizes).tolist() == [[0, 1]]


def test_dino_resizes_the_reference_by_nearest_and_lila_bilinearly():
    one_hot = torch.zeros(1, 4, 4)
    one_hot[0, 1, 1] = 1
    assert DINO.resize_reference(one_hot, (2, 2))[0].tolist() == [[1, 0], [0, 0]]
    assert LILA.resize_reference(one_hot, (2, 2))[0].tolist() == [[0.25, 0], [0, 0]]


def test_frames_are_antialiased_by_dino_s_protocol_alone():
    frame, sizes = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), Sizes((60, 80), (15, 20), (15, 20))
    pixels = torch.from_numpy(frame.astype(np.float32) / 255).movedim(-1, 0)
    centers = pixels[:, 1::4, 1::4] + pixels[:, 1::4, 2::4] + pixels[:, 2::4, 1::4] + pixels[:, 2::4, 2::4]
    for protocol, equal in ((LILA, True), (DINO, False)):
        found = protocol.unit_features(frame, lambda image: image, sizes, torch.device("cpu"))
        assert torch.allclose(found, torch.nn.functional.normalize(centers, dim=0), atol=1e-5) == equal
