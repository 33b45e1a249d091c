"""Temporal stability against a slow loop in float64, with a flow that is known, and with a real network."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lila_train.evaluation import harness
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.davis.stability import StabilitySettings, StabilityTask, follow, pair_cosines, stability_task
from lila_train.evaluation.davis.task import open_davis
from lila_train.evaluation.protocols import open_task
from stores.errors import LilaError
from tests.lila_train.evaluation.test_points import Colors
from tests.lila_train.evaluation.worlds import write_davis


def slow_cosine(one: np.ndarray, other: np.ndarray, p: np.ndarray, q: np.ndarray, nearest: bool) -> float:
    """Mean cosine of features at p in one map and at q in the other, point by point."""

    def at(maps: np.ndarray, x: float, y: float) -> np.ndarray:
        _, h, w = maps.shape
        if nearest:
            return maps[:, min(int(y * h), h - 1), min(int(x * w), w - 1)]
        column, row = x * w - 0.5, y * h - 0.5
        left, top = math.floor(column), math.floor(row)
        total = np.zeros(len(maps))
        for r, share_r in ((top, top + 1 - row), (top + 1, row - top)):
            for c, share_c in ((left, left + 1 - column), (left + 1, column - left)):
                total += share_r * share_c * maps[:, min(max(r, 0), h - 1), min(max(c, 0), w - 1)]
        return total

    cosines = []
    for (x, y), (u, v) in zip(p, q, strict=True):
        a, b = at(one, x, y), at(other, u, v)
        cosines.append(a @ b / math.sqrt((a @ a) * (b @ b)))
    return float(np.mean(cosines))


def test_cosines_equal_a_slow_loop_over_points():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 5, 7, 9)) + 0.3
    p, q, r = rng.random((3, 40, 2))
    found = pair_cosines(*(torch.from_numpy(value) for value in (one, other, p, q, r))).metrics()
    same, chance = ({n: slow_cosine(one, other, p, to, n) for n in (False, True)} for to in (q, r))
    assert found["stability"] == pytest.approx(same[False] - chance[False], abs=1e-12)
    assert found["stability_cells"] == pytest.approx(same[True] - chance[True], abs=1e-12)
    assert (found["cosine_corresponding"], found["cosine_random"]) == pytest.approx((same[False], chance[False]))
    nothing = torch.zeros(0, 2, dtype=torch.float64)
    assert pair_cosines(torch.from_numpy(one), torch.from_numpy(other), nothing, nothing, nothing).metrics() == {}


def test_points_follow_the_flow_and_must_come_back():
    forward, backward = torch.zeros(2, 20, 40), torch.zeros(2, 20, 40)
    forward[0], backward[0] = 8.0, -8.0  # to the right
    backward[:, :10] = 0  # above, the way back does not return
    points = torch.tensor([[0.25, 0.75], [0.25, 0.2], [0.9, 0.75]])
    ends, agree = follow(points, forward, backward)
    torch.testing.assert_close(ends, points + torch.tensor([0.2, 0.0]))
    assert agree.tolist() == [True, False, False]  # the last one leaves the frame


class Shift:
    """A flow network that knows the motion: 4 px to the right and back."""

    def to(self, device):
        return self

    def between(self, images, pairs):
        flow = torch.zeros(2, 2, *images.shape[2:])
        flow[0, 0], flow[1, 0] = 4.0, -4.0
        return flow


def test_a_map_that_moves_with_the_flow_is_stable_and_a_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from PIL import Image

    root = write_davis(tmp_path / "davis", ("one",), count=3)
    noise = np.random.default_rng(0).integers(0, 256, (12, 28, 3)).repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
    for t in range(3):
        picture = Image.fromarray(np.ascontiguousarray(noise[:, 20 - 4 * t : 84 - 4 * t]))
        picture.save(root / f"JPEGImages/480p/one/{t:05d}.jpg", quality=100, subsampling=0)
    monkeypatch.setattr(StabilityTask, "flow", Shift())
    rule = replace(StabilitySettings(), short_side_px=48)
    task = StabilityTask("davis-stability", open_davis(root), EvalConfig(short_side=48), rule)
    result = harness.evaluate(task, Colors(), tmp_path / "out", torch.device("cpu"))
    assert result["counts"] == {"sequences": 1, "frames": 3}
    for scores in result["scores"].values():
        assert scores["cosine_corresponding"] > 0.97
        assert scores["stability"] == pytest.approx(scores["cosine_corresponding"] - scores["cosine_random"])
        assert scores["stability_cells"] > 0.5
    assert 0.9 < result["parts"]["lila"]["one"]["corresponding"] < 1  # a strip of 4 of 64 px leaves the frame
    (tmp_path / "out/result.json").unlink()
    (tmp_path / "out/parts/lila/one.json").unlink()
    fresh = replace(task, _pairs={})
    again = harness.evaluate(fresh, Colors(), tmp_path / "out", torch.device("cpu"))
    assert again["scores"] == result["scores"]
    assert again["earlier_parts"] == 1


def test_the_flow_network_is_an_option(shared: Path, tmp_path: Path):
    root = write_davis(tmp_path / "davis", ("one",), count=3)
    weights = shared / "data/weights/raft_small.pth"
    task = open_task("davis-stability", root, EvalConfig(flow="raft_small", flow_weights=weights))
    assert task.config.evaluation_id(task.protocol) == "davis-stability+flow_weights=given"
    assert len(task.settings["flow_weights_sha256"]) == 64
    dis = open_task("davis-stability", root, EvalConfig(flow="dis", short_side=48))
    assert dis.config.evaluation_id(dis.protocol) == "davis-stability+short_side=48+flow=dis"
    scores = harness.evaluate(dis, Colors(), tmp_path / "out", torch.device("cpu"))["scores"]
    assert scores["lila"]["stability"] > 0.3
    for changed, message in (
        ({"flow_weights": tmp_path / "none.pth"}, r"a weight file for raft_small, found none at .*none\.pth; correct"),
        ({"flow": "dis", "flow_weights": weights}, r"a weight file for dis, found one, but it has none; correct"),
        ({"flow": "spynet"}, r"--set flow must be raft_small, raft_large or dis, found spynet"),
    ):
        with pytest.raises(LilaError, match=message):
            stability_task(root, EvalConfig(**changed))
