"""The k-NN protocols: sizes as published, labels that follow what moves, steps that differ between the two."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from lila_train.evaluation.davis import knn
from lila_train.evaluation.davis.knn import DINO, LILA, KnnSettings, Sizes
from lila_train.model.propagation import Budget
from tests.lila_train.evaluation.worlds import COLORS, HEIGHT, WIDTH, ColorModel, moving_squares


@pytest.mark.parametrize(
    ("settings", "patch", "native", "frame", "grid"),
    [
        (LILA.settings, 14, (480, 854), (476, 840), (60, 105)),
        (LILA.settings, 8, (480, 854), (272, 480), (60, 105)),
        (LILA.settings, 14, (854, 480), (840, 476), (105, 60)),
        (DINO.settings, 8, (480, 854), (480, 832), (60, 104)),
        (DINO.settings, 16, (480, 910), (480, 896), (30, 56)),
        (DINO.settings, 14, (480, 854), (476, 840), (34, 60)),
        (KnnSettings(short_side_px=100), 16, (100, 100), (96, 96), (60, 60)),
    ],
)
def test_sizes_of_frames_and_grids(settings, patch, native, frame, grid):
    assert knn.sizes_of(native, patch, settings) == Sizes(native, frame, grid)


def test_the_radius_is_told_in_pixels_too():
    assert Sizes((480, 854), (476, 840), (60, 105)).radius_px(25) == 96.0
    assert Sizes((480, 854), (480, 832), (30, 52)).radius_px(25) == 192.0


def test_published_settings():
    for protocol in (LILA, DINO):
        chosen = protocol.settings
        assert (chosen.window, chosen.context_frames, chosen.top, chosen.temperature) == (25, 8, 5, 0.1)
    assert (LILA.settings.border, DINO.settings.border) == ("replicate", "cut")
    assert (LILA.neighbours.replicate, DINO.neighbours.replicate) == (True, False)


@pytest.mark.parametrize("head", ["encoder_grid", "pixel_map"])
@pytest.mark.parametrize("protocol", [LILA, DINO], ids=lambda protocol: protocol.name)
def test_labels_follow_what_moves(protocol, head):
    truth = moving_squares(6)
    model = ColorModel()
    sizes = knn.sizes_of((HEIGHT, WIDTH), model.patch_size, KnnSettings(short_side_px=48, grid_short_side=24))
    cells_of = partial(knn.unit_cells, features=getattr(model, head), sizes=sizes, device=model.device)
    predicted = list(knn.follow((COLORS[labels] for labels in truth), truth[0], cells_of, protocol, sizes, Budget()))
    assert len(predicted) == 5
    for labels, expected in zip(predicted, truth[1:], strict=True):
        assert labels.shape == (HEIGHT, WIDTH)
        assert labels.dtype == np.uint8
        assert (labels == expected).mean() > 0.93
        assert set(np.unique(labels)) == {0, 1, 2}


def test_features_of_a_cell_have_unit_length_and_the_grid_s_size():
    sizes = Sizes((48, 64), (24, 32), (6, 8))
    cells = knn.unit_cells(COLORS[moving_squares(1)[0]], ColorModel().pixel_map, sizes, torch.device("cpu"))
    assert cells.shape == (3, 6, 8)
    torch.testing.assert_close(cells.norm(dim=0), torch.ones(6, 8))


def test_dino_stretches_each_channel_before_it_compares_them():
    labels = torch.tensor([[[0.9, 0.6]], [[0.1, 0.4]]])
    sizes = Sizes((1, 2), (1, 2), (1, 2))
    assert LILA.read_out(labels, sizes).tolist() == [[0, 0]]
    assert DINO.read_out(labels, sizes).tolist() == [[0, 1]]


def test_dino_takes_the_nearest_label_where_lila_mixes():
    one_hot = torch.zeros(1, 4, 4)
    one_hot[0, 1, 1] = 1
    assert DINO.resize_reference(one_hot, (2, 2))[0].tolist() == [[1, 0], [0, 0]]
    assert LILA.resize_reference(one_hot, (2, 2))[0].tolist() == [[0.25, 0], [0, 0]]
