"""The table of cues: what any cue owes the views and the pictures, and normals, which are extra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lila_train.training.config import FEATURES, ObjectiveConfig
from lila_train.training.crops import cut_views
from lila_train.training.data import PairBatch
from lila_train.training.objective import Erm
from lila_train.training.targets import CUES, active_cues
from tests.lila_train.training.test_views import METHOD, MIRRORED, SIZE, WHOLE, shear

ALL = replace(METHOD, cues=("features", "normals", "flow", "depth"), channels=5)
NORMAL = F.normalize(torch.tensor([0.5, -0.2, -1.0]), dim=0)


def with_normals(query: tuple[int, ...] = WHOLE) -> PairBatch:
    """The sliding scene, its surface one plane."""
    batch = shear(query=query)
    normals = NORMAL.view(1, 1, 3, 1, 1).expand(1, 2, 3, SIZE // 2, SIZE // 2)
    return replace(batch, cues={**batch.cues, "normals": normals})


def test_maps_follow_the_table_whatever_order_a_run_names() -> None:
    assert [cue.name for cue in active_cues(ALL)] == ["flow", "depth", "normals", "features"]
    assert list(CUES)[-1] == FEATURES


@pytest.mark.parametrize("name", CUES)
def test_a_cue_keeps_its_word(name: str) -> None:
    """Channels as announced, masks that fit, the arrays it names and no others, pictures of the view's size."""
    cue, batch = CUES[name], with_normals()
    only = replace(batch, cues={array: batch.cues[array] for array in cue.arrays(ALL)})
    for told in cue.targets(only, ALL):
        assert told.maps.shape == told.valid.shape == (1, cue.channels(ALL), SIZE, SIZE)
        assert told.valid.dtype == torch.bool
        assert told.confidence.shape[0] == 1
        true = told.maps[0].numpy()
        assert [picture.shape for picture in cue.draw(true, true)] == [(SIZE, SIZE, 3)] * 2
        np.testing.assert_array_equal(*cue.draw(true, true))
        assert (cue.draw(true, true)[0] != cue.draw(true, true[..., ::-1] + 1)[1]).any()


def test_a_plane_has_the_same_normal_in_a_mirrored_view() -> None:
    context, query = cut_views(with_normals(query=MIRRORED), replace(ALL, cues=("normals",)))
    for view in (context, query):
        torch.testing.assert_close(view.cues[0, :, 11, 7], NORMAL)
    assert context.confidence.shape[1] == 2  # everywhere, and where depth is near enough


def test_normals_are_valid_where_depth_is() -> None:
    batch = with_normals()
    depth = batch.cues["depth"].clone()
    depth[:, 0, : SIZE // 2] = 1.0
    context, query = cut_views(replace(batch, cues={**batch.cues, "depth": depth}), replace(ALL, cues=("normals",)))
    assert not context.valid[:, :, : SIZE // 2].any()
    assert context.valid[:, :, SIZE // 2 :].all()
    assert query.valid.all()


@pytest.mark.parametrize(
    ("cues", "fixed"), [(("flow", "depth", "features"), 3), (("depth", "normals"), 4), (("features",), 0)]
)
def test_the_learned_head_has_a_row_for_every_channel(cues: tuple[str, ...], fixed: int) -> None:
    assert Erm(ObjectiveConfig(cues=cues), features=4, encoder_width=7).rows.weight.shape == (fixed + 7, 4)
