"""Point protocols: metrics against slow loops in float64 written from their definitions, and corner cases by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lila_cues.images import read_image
from lila_train.cli import app
from lila_train.evaluation import harness
from lila_train.evaluation.config import EvalConfig
from lila_train.evaluation.points import SpairSettings, SpairTask, open_spair, tapvid_task, tracking_scores
from lila_train.evaluation.protocols import open_task
from tests.lila_train.evaluation.worlds import ColorModel, write_spair

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Colors:
    """A spec of the model whose features are colors."""

    def heads(self):
        return ("encoder", "lila")

    def identity(self):
        return {"name": "colors"}

    def load(self, device):
        return ColorModel()


def write_pairs(root: Path) -> Path:
    rng = np.random.default_rng(1)

    def points(count: int) -> list[list[float]]:
        return [[float(x), float(y)] for x, y in rng.integers([3, 3], [57, 37], (count, 2))]

    return write_spair(root, [(name, points(n), points(n)) for name, n in (("cat", 4), ("cat", 9), ("bus", 6))])


def slow_pck(root: Path, head: str, side: int) -> dict[str, float]:
    """PCK from the JSON files: pad to a square, resize, and compare the source's cell with each of the target."""
    model, by_category, points = ColorModel(), {}, []
    for name in (root / "Layout/large/test.txt").read_text().split():
        pair = json.loads((root / f"PairAnnotation/test/{name}.json").read_text())
        maps = []
        for end in ("src", "trg"):
            rgb = read_image(root / "JPEGImages" / pair["category"] / pair[f"{end}_imname"])
            square = cv2.copyMakeBorder(rgb, 10, 10, 0, 0, cv2.BORDER_CONSTANT, value=0)  # 40×60 to 60×60
            image = torch.from_numpy(square / 255.0).movedim(-1, 0)[None].float()
            image = torch.nn.functional.interpolate(image, (side, side), mode="bilinear", antialias=True)
            found = model.encoder_grid(image) if head == "encoder" else model.pixel_map(image)
            maps.append(torch.nn.functional.interpolate(found, (side, side), mode="bilinear")[0].double().numpy())
        right = []
        for (x, y), (true_x, true_y) in zip(pair["src_kps"], pair["trg_kps"], strict=True):
            own = maps[0][:, int((y + 10) / 60 * side), int(x / 60 * side)]
            best, place = -2.0, (0.0, 0.0)
            for row in range(side):
                for column in range(side):
                    other = maps[1][:, row, column]
                    cosine = own @ other / np.sqrt((own @ own) * (other @ other))
                    if cosine > best + 1e-7:
                        best, place = cosine, ((column + 0.5) / side * 60, (row + 0.5) / side * 60 - 10)
            right.append(np.hypot(place[0] - true_x, place[1] - true_y) <= 0.1 * 50)
        by_category.setdefault(pair["category"], []).append(np.mean(right))
        points += right
    return {"pck_image": np.mean([np.mean(each) for each in by_category.values()]), "pck_point": np.mean(points)}


def test_pck_equals_a_slow_loop_over_pairs_points_and_cells(tmp_path: Path):
    root = write_pairs(tmp_path / "SPair-71k")
    task = SpairTask("spair71k-knn", open_spair(root, None), EvalConfig(), SpairSettings(side_px=40))
    result = harness.evaluate(task, Colors(), tmp_path / "out", CPU)
    assert result["counts"] == {"categories": 2, "pairs": 3, "points": 19}
    for head in ("encoder", "lila"):
        expected = slow_pck(root, head, 40)
        assert result["scores"][head] == pytest.approx(expected)
    assert 0.2 < result["scores"]["encoder"]["pck_image"] < result["scores"]["lila"]["pck_image"] <= 1
    assert {path.name for path in (tmp_path / "out/examples/00001").iterdir()} == {
        "image.png",
        "encoder.png",
        "lila.png",
    }
    page = CliRunner().invoke(app, ["report", str(tmp_path / "out"), "--out", str(tmp_path / "page")])
    assert page.exit_code == 0
    text = (tmp_path / "page/tables.md").read_text()
    assert "## Semantic correspondence, SPair-71k" in text
    assert "PCK@0.10 per point" in text


def slow_tracking(start, true_px, true_occluded, found_px, found_occluded) -> dict[str, float]:
    """TAP-Vid's definitions, point by point."""
    within, jaccards = [], []
    right = total = 0
    for distance in (1, 2, 4, 8, 16):
        near = visible = true_positive = false_positive = 0
        for n in range(len(start)):
            for t in range(start[n] + 1, true_px.shape[1]):
                dx, dy = found_px[n, t] - true_px[n, t]
                close = dx * dx + dy * dy < distance * distance
                if distance == 1:
                    total += 1
                    right += bool(true_occluded[n, t]) == bool(found_occluded[n, t])
                if not true_occluded[n, t]:
                    visible += 1
                    near += close
                if not found_occluded[n, t]:
                    if close and not true_occluded[n, t]:
                        true_positive += 1
                    else:
                        false_positive += 1
        within.append(near / visible)
        false_negative = visible - true_positive
        jaccards.append(true_positive / (true_positive + false_positive + false_negative))
    return {
        "delta_avg": sum(within) / 5,
        "occlusion_accuracy": right / total,
        "average_jaccard": sum(jaccards) / 5,
    }


@pytest.mark.parametrize("seed", range(3))
def test_tracking_scores_equal_a_slow_loop(seed: int):
    rng = np.random.default_rng(seed)
    true_px = rng.uniform(0, 256, (7, 9, 2))
    found_px = true_px + rng.normal(size=(7, 9, 2)) * rng.choice([0.5, 2, 6, 20], (7, 9, 1))
    true_occluded, found_occluded = rng.random((2, 7, 9)) < 0.4
    args = rng.integers(0, 8, 7), true_px, true_occluded, found_px, found_occluded
    assert tracking_scores(*args).metrics() == pytest.approx(slow_tracking(*args), abs=1e-12)


def one_track(found_x: float, true_hidden: bool, found_hidden: bool) -> dict[str, float | None]:
    """Scores of one point at 0, 0 in two frames, found at `found_x` px in the second."""
    true, found = np.zeros((1, 2, 2)), np.array([[[99.0, 99.0], [found_x, 0.0]]])
    hidden = np.array([[False, true_hidden]]), np.array([[True, found_hidden]])
    return tracking_scores(np.array([0]), true, hidden[0], found, hidden[1]).metrics()


@pytest.mark.parametrize(
    ("found_x", "true_hidden", "found_hidden", "expected"),
    [
        (0.0, False, False, (1.0, 1.0, 1.0)),
        (
            1.0,
            False,
            False,
            (0.8, 1.0, 0.8),
        ),  # a distance of 1 px is not within 1 px; the frame of the query is left out
        (99.0, False, False, (0.0, 1.0, 0.0)),
        (0.0, False, True, (1.0, 0.0, 0.0)),  # the position counts where the point is taken as hidden; Jaccard does not
        (0.0, True, False, (None, 0.0, 0.0)),  # a hidden point has no position
        (0.0, True, True, (None, 1.0, None)),
    ],
)
def test_corner_cases_of_the_tracking_scores(found_x, true_hidden, found_hidden, expected):
    found = one_track(found_x, true_hidden, found_hidden)
    assert tuple(found.get(name) for name in ("delta_avg", "occlusion_accuracy", "average_jaccard")) == expected


def write_tapvid(root: Path) -> Path:
    """Two videos of 6 frames of 64×96 px: a red square moves by 3 px a frame, a green one is hidden from frame 3 on."""
    root.mkdir()
    for name, first in (("a", 0), ("b", 2)):
        video = np.full((6, 64, 96, 3), 90, np.uint8)
        points, occluded = np.zeros((3, 6, 2), np.float32), np.zeros((3, 6), bool)
        occluded[0, :first], occluded[1, 3:], occluded[2] = True, True, True  # the last is never seen
        for t in range(6):
            for n, (x, y, color) in enumerate(((20 + 3 * t, 16, (250, 20, 10)), (70, 45, (10, 200, 30)))):
                points[n, t] = (x + 0.5) / 96, (y + 0.5) / 64
                if not occluded[n, t]:
                    video[t, y - 2 : y + 3, x - 2 : x + 3] = color
        np.savez(root / f"{name}.npz", video=video, points=points, occluded=occluded)
    return root


def test_squares_are_tracked_and_seen_to_disappear(tmp_path: Path):
    root = write_tapvid(tmp_path / "data")
    task = tapvid_task(root, EvalConfig(visible_cosine=0.9))
    result = harness.evaluate(task, Colors(), tmp_path / "out", CPU)
    assert result["protocol"] == "tapvid-davis@first+visible_cosine=0.9"
    assert result["counts"] == {"videos": 2, "points": 4, "frames": 12}
    assert result["derived"]["frame_px"] == [128, 128]
    for scores in result["scores"].values():
        assert scores["delta_avg"] >= 0.2  # all cells of a square are alike: within 16 px of its center
        assert scores["occlusion_accuracy"] == 1
    always = harness.evaluate(tapvid_task(root, EvalConfig(visible_cosine=-1)), Colors(), tmp_path / "all", CPU)
    assert always["scores"]["lila"]["occlusion_accuracy"] == (7 / 10 + 5 / 8) / 2
    assert always["scores"]["lila"]["delta_avg"] == result["scores"]["lila"]["delta_avg"]
    own = open_task("tapvid-davis@first", root, EvalConfig(visible_cosine=0.6))
    assert own.config.evaluation_id(own.protocol) == "tapvid-davis@first"


def test_the_feature_of_a_query_is_sampled_at_its_place(tmp_path: Path):
    """A ramp of colors: every point that stands still is found in the cell around it."""
    root = tmp_path / "data"
    root.mkdir()
    y, x = np.mgrid[:128, :128]
    video = np.stack([np.stack([2 * x, 255 - 2 * x, 2 * y], axis=-1).astype(np.uint8)] * 2)
    places = np.random.default_rng(0).uniform(0.1, 0.9, (20, 1, 2)).repeat(2, axis=1)
    np.savez(root / "a.npz", video=video, points=places.astype(np.float32), occluded=np.zeros((20, 2), bool))
    result = harness.evaluate(tapvid_task(root, EvalConfig()), Colors(), tmp_path / "out", CPU)
    assert result["scores"]["lila"]["delta_avg"] > 0.75  # cells of 2 px
    assert result["scores"]["encoder"]["delta_avg"] > 0.35  # cells of 8 px
