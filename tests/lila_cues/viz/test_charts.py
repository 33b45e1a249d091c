"""Charts: what is drawn is what was given, and the same data give the same file."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from lila_cues.viz import charts
from lila_cues.viz.charts import Curve, Panel, loss_curves, picture_sheet, score_dots, step_curves
from lila_cues.viz.html import Figure as Picture
from lila_cues.viz.html import Row

LOG = [{"step": n, "loss": 2.0 - n / 100, "l1": 1.0} for n in range(100)]
TITLES = {"loss": "total", "l1": "L1 $a_b$"}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, before they become files."""
    figures: list[Figure] = []
    encode = charts._encode
    monkeypatch.setattr(charts, "_encode", lambda figure, kind: figures.append(figure) or encode(figure, kind))
    return figures


def test_the_mean_does_not_lag() -> None:
    line = np.arange(30.0)
    np.testing.assert_allclose(charts.centered_mean(line, charts.WINDOW), line, atol=1e-12)
    peak = charts.centered_mean(np.eye(30)[15], 5)
    np.testing.assert_allclose(peak[12:19], [0, 0.2, 0.2, 0.2, 0.2, 0.2, 0], atol=1e-12)
    assert charts.centered_mean(np.array([4.0, 1.0, 1.0]), 5) == pytest.approx([3.5, 2, 0.5])
    assert [len(charts.centered_mean(np.zeros(n), 5)) for n in range(4)] == [0, 1, 2, 3]


def test_a_loss_is_drawn_step_by_step_and_as_its_mean(drawn: list[Figure]) -> None:
    loss_curves(LOG, TITLES)
    (axes,) = drawn[0].axes
    thin, thick, *others = axes.lines
    assert len(others) == 2
    np.testing.assert_allclose(thin.get_ydata(), [row["loss"] for row in LOG])
    np.testing.assert_allclose(thick.get_xdata(), np.arange(100))
    assert thick.get_ydata()[50] == pytest.approx(np.mean([row["loss"] for row in LOG[40:61]]))
    assert thin.get_color() == thick.get_color() != others[0].get_color()
    assert [text.get_text() for text in axes.get_legend().texts] == list(TITLES.values())
    assert axes.get_xlabel() == "step"


def test_the_axis_is_logarithmic_with_plain_numbers_and_whole_steps(drawn: list[Figure]) -> None:
    """A loss far above the others does not flatten them; one that is always 0 is left out."""
    rows = [{"step": n, "loss": 0.5 if n == 0 else 0.01, "edge": 0.0} for n in range(6)]
    loss_curves(rows, {"loss": "total", "edge": "edge"})
    (axes,) = drawn[0].axes
    assert axes.get_yscale() == "log"
    assert {"0.01", "0.1", "0.5"} <= {text.get_text() for text in axes.get_yticklabels()}
    assert not any("$" in text.get_text() for text in (*axes.get_yticklabels(), *axes.get_yticklabels(minor=True)))
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    loss_curves([row | {"loss": 0.0} for row in rows], {"loss": "total"})
    assert drawn[1].axes[0].get_yscale() == "linear"


def test_ten_curves_are_told_apart(drawn: list[Figure]) -> None:
    line = (np.array([1, 2]), np.array([3.0, 4.0]))
    step_curves([Panel("loss", [Curve(str(n), line) for n in range(10)])])
    rgb = np.array([to_rgb(each.get_color()) for each in drawn[0].axes[0].lines])
    distances = np.linalg.norm(rgb[:, None] - rgb, axis=-1) + np.eye(10)
    assert distances.min() > 0.3


def test_long_runs_are_thinned_and_short_ones_marked(drawn: list[Figure]) -> None:
    for count in (50_000, 1, 0):
        loss_curves([{"step": n, "loss": 1.0} for n in range(count)], {"loss": "total"})
    thin, thick = drawn[0].axes[0].lines
    assert 600 <= len(thin.get_xdata()) < 1200
    assert thick.get_marker() == ""
    assert drawn[1].axes[0].lines[1].get_marker() == "o"  # a line of one point would not be seen
    assert not any(len(line.get_xdata()) for line in drawn[2].axes[0].lines)


def test_a_label_has_one_color_in_all_panels(drawn: list[Figure]) -> None:
    line = (np.array([1, 2]), np.array([3.0, 4.0]))
    step_curves([Panel("loss", [Curve("a", line), Curve("b", line)]), Panel("score", [Curve("b", line)], ("ref", 5.0))])
    left, right = drawn[0].axes
    assert left.lines[1].get_color() == right.lines[0].get_color() == charts.COLORS[1]
    np.testing.assert_allclose(right.lines[1].get_ydata(), 5.0)
    assert right.get_ylim()[0] > 0


def test_a_row_far_below_the_others_does_not_flatten_them(drawn: list[Figure]) -> None:
    scores = {"full": [80.0, 82.0], "none": [], "erm": [55.0, 57.0], "one": [78.0]}
    score_dots(scores, ("encoder", 76.0), "J&F, %")
    (axes,) = drawn[0].axes
    assert 75 < axes.get_xlim()[0] < 76
    assert [text.get_text() for text in axes.texts] == [" encoder", " ← 56.0"]
    steps = np.array([1, 2])
    curves = [Curve(name, (steps, np.array(y))) for name, y in (("full", [70.0, 80.0]), ("erm", [40.0, 50.0]))]
    step_curves([Panel("J&F, %", curves, ("encoder", 76.0))])
    (axes,) = drawn[1].axes
    assert 68 < axes.get_ylim()[0] < 70
    assert axes.texts[0].get_text() == "erm: below the axis, 50.0 at the end"
    score_dots({"full": [80.0, 82.0], "one": [70.0]}, ("encoder", 76.0), "J&F, %")
    assert drawn[2].axes[0].get_xlim()[0] < 70


def test_a_reference_far_below_is_shown(drawn: list[Figure]) -> None:
    curves = [Curve(name, (np.array([1, 2]), np.array([81.0, 81.5]))) for name in ("full", "one")]
    step_curves([Panel("J&F, %", curves, ("encoder", 69.0))])
    score_dots({"full": [81.0], "one": [81.5]}, ("encoder", 69.0), "J&F, %")
    assert drawn[0].axes[0].get_ylim()[0] < 69
    assert drawn[1].axes[0].get_xlim()[0] < 69


def test_scores_stand_in_rows_with_their_spread(drawn: list[Figure]) -> None:
    svg = score_dots({"full": [80.0, 82.0, 84.0], "one": [70.0], "none": []}, ("encoder", 60.0), "J&F, %")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["full", "one", "none"]
    assert axes.yaxis_inverted()  # the first row is at the top
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[80, 0], [82, 0], [84, 0]])
    (bar, *_) = [c.get_segments()[0] for c in axes.collections if hasattr(c, "get_segments")]
    np.testing.assert_allclose(bar, [[80, 0], [84, 0]])  # mean ± standard deviation, unbiased
    assert b"<svg" in svg


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_data_give_the_same_file(kind: str) -> None:
    assert loss_curves(LOG, TITLES, kind) == loss_curves(LOG, TITLES, kind)
    assert b"dc:date" not in loss_curves(LOG, TITLES, kind)


def test_a_png_can_be_read(tmp_path: Path) -> None:
    with Image.open(io.BytesIO(loss_curves(LOG, TITLES, "png"))) as picture:
        assert picture.size == (1512, 518)
        assert len(np.unique(np.asarray(picture).reshape(-1, 4), axis=0)) > 50


def test_a_sheet_has_a_row_of_titled_pictures_for_each_pair(drawn: list[Figure]) -> None:
    pictures = [np.full((h, w, 3), 90, np.uint8) for h, w in ((480, 640), (4, 3), (10, 10))]
    rows = [Row("a clip é", [Picture(each, "Flow t → t+Δ", "2 px") for each in pictures]), Row("b", [None])]
    with Image.open(io.BytesIO(picture_sheet(rows))) as sheet:
        assert sheet.size == (3 * 240, 2 * 320)
    first, second = drawn[0].subfigs
    tops = [axes._left_title.get_window_extent().y1 for axes in first.axes]
    assert max(tops) < first._suptitle.get_window_extent().y0  # no text lies on another
    assert [part.get_suptitle() for part in (first, second)] == ["a clip é", "b"]
    assert [axes.get_title(loc="left") for axes in first.axes] == ["Flow t → t+Δ\n2 px"] * 3
    assert [axes.images[0].get_array().shape for axes in first.axes] == [each.shape for each in pictures]
    assert not any(axes.images for axes in second.axes)


def test_names_are_text_and_the_users_style_stays() -> None:
    """`$` would begin a formula: an unfinished one fails, and a finished one loses its dollars."""
    before = dict(rcParams)
    svg = score_dots({"<b>&$x": [1.0], r"$\nonsense$": [2.0]}, ("--> $_", 0.0), "]]> $\\")
    ElementTree.fromstring(svg)
    assert dict(rcParams) == before
