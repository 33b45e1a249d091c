"""The table of cues: the contract of any cue, and surface normals, which are extra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lila_train.training.config import FEATURES
from lila_train.training.crops import Crops, make_views
from lila_train.training.data import PairBatch
from lila_train.training.objective import Erm
from lila_train.training.targets import CUES, active_cues, pair_targets
from stores.errors import LilaError
from tests.lila_train.training.test_views import CONFIG, FLIPPED, PLAIN, SIZE, shear

ALL = CONFIG.replace(cues=("features", "normals", "flow", "depth"), channels=5)
NORMAL = F.normalize(torch.tensor([0.5, -0.2, -1.0]), dim=0)


def with_normals(query: tuple[int, ...] = PLAIN) -> PairBatch:
    """The scene of `shear`, its surface one plane."""
    batch = shear(query=query)
    normals = NORMAL.view(1, 1, 3, 1, 1).expand(1, 2, 3, SIZE // 2, SIZE // 2)
    return replace(batch, cues={**batch.cues, "normals": normals})


def test_cues_follow_the_order_of_the_table() -> None:
    assert [cue.name for cue in active_cues(ALL)] == ["flow", "depth", "normals", "features"]
    assert list(CUES)[-1] == FEATURES


@pytest.mark.parametrize("name", CUES)
def test_a_cue_keeps_its_contract(name: str) -> None:
    """Channels as declared, masks that fit, no arrays but the declared ones, pictures of the view's size."""
    cue, batch = CUES[name](ALL), with_normals()
    only = replace(batch, cues={array: batch.cues[array] for array in cue.arrays})
    crop = Crops.of_view(batch, 0, SIZE).sample_map
    for target in pair_targets(cue, only, (0, 1), (crop, crop)):
        assert target.map.shape == (1, cue.channels, SIZE, SIZE)
        assert target.mask.shape in {(1, channels, SIZE, SIZE) for channels in (1, cue.channels)}
        assert 0 <= target.mask.min() <= target.mask.max() <= 1
        true = target.map[0].numpy()
        assert [picture.shape for picture in cue.draw(true, true)] == [(SIZE, SIZE, 3)] * 2
        np.testing.assert_array_equal(*cue.draw(true, true))
        assert (cue.draw(true, true)[0] != cue.draw(true, true[..., ::-1] + 1)[1]).any()


@pytest.mark.parametrize(("cues", "found"), [((), "none"), (("flow", "sound"), "sound")])
def test_unknown_cues_are_refused(cues: tuple[str, ...], found: str) -> None:
    with pytest.raises(LilaError, match=f"cues must be some of flow, depth, normals, features, found {found}"):
        active_cues(CONFIG.replace(cues=cues))


def test_a_plane_has_the_same_normal_in_a_flipped_view() -> None:
    context, query = make_views(with_normals(query=FLIPPED), ALL.replace(cues=("normals",)))
    for view in (context, query):
        torch.testing.assert_close(view.target[0, :, 11, 7], NORMAL)
    assert context.weight.shape[1] == 1  # where depth is near enough


def test_normals_are_valid_where_depth_is() -> None:
    batch = with_normals()
    depth = batch.cues["depth"].clone()
    depth[:, 0, : SIZE // 2] = 1.0
    context, query = make_views(replace(batch, cues={**batch.cues, "depth": depth}), ALL.replace(cues=("normals",)))
    assert not context.valid[:, :, : SIZE // 2].any()
    assert context.valid[:, :, SIZE // 2 :].all()
    assert query.valid.all()


@pytest.mark.parametrize(
    ("cues", "fixed"), [(("flow", "depth", "features"), 3), (("depth", "normals"), 4), (("features",), 0)]
)
def test_the_learned_head_has_a_row_for_every_channel(cues: tuple[str, ...], fixed: int) -> None:
    assert Erm(CONFIG.replace(cues=cues), features=4, encoder_width=7).rows.weight.shape == (fixed + 7, 4)
