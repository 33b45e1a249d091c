"""Pieces of a page: escaped, self-contained, pictures that come back as they went in."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lila_cues.viz import charts, html
from lila_cues.viz.html import Markup

EMPTY_TAGS = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Follows what is open, and everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_self_contained(text: str) -> None:
    """Every tag closed, nothing fetched, no script."""
    found = Balance()
    found.feed(text)
    assert found.open == []
    assert all(value.startswith("data:image/") for value in found.fetched)
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text


def pixels_of(image: Markup) -> np.ndarray:
    (encoded,) = re.findall(r'base64,([^"]+)"', image.text)
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        return np.asarray(picture)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.Generator(np.random.Philox(0)).integers(0, 256, (5, 7, 3), np.uint8)


def test_a_drawing_is_lossless_and_a_photo_nearly(picture):
    np.testing.assert_array_equal(pixels_of(html.drawing(picture, "x")), picture)
    smooth = np.full((16, 16, 3), 90, np.uint8)
    np.testing.assert_allclose(pixels_of(html.photo(smooth, "x")), smooth, atol=2)


def test_text_is_escaped_wherever_it_is_put(picture):
    evil = "<b onload='x'>&"
    parts = [
        html.heading(evil), html.paragraph(evil), html.photo(picture, evil), html.figure(Markup("<i></i>"), evil, evil),
        html.table([evil], [[evil]]), html.facts({evil: {evil: evil}}), html.folded(evil, Markup("")),
        charts.curves(np.arange(2.0), {evil: np.ones(2)}, evil),
    ]  # fmt: skip
    text = html.document(evil, html.joined(parts))
    assert "<b onload" not in text
    check_self_contained(text)


def test_a_table_keeps_cells_rows_and_styles():
    text = html.table(["a", "b"], [["1", Markup('<td class="bar">2</td>')], ["3", "4"]], ["best"]).text
    assert '<tr class="best"><td>1</td><td class="bar">2</td></tr><tr><td>3</td><td>4</td></tr>' in text


@pytest.mark.parametrize(
    ("top", "expected"),
    [(1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (60.0, [0, 20, 40, 60]), (0.097, [0, 0.02, 0.04, 0.06, 0.08])],
)
def test_ticks_are_round_numbers(top, expected):
    assert charts.ticks(top) == pytest.approx(expected)


def test_the_running_mean_by_hand():
    curve = np.arange(30.0)
    mean = charts.running_mean(curve, charts.WINDOW)
    assert mean[:3] == pytest.approx([0, 0.5, 1])
    assert mean[29] == pytest.approx(np.mean(curve[10:]))


def test_a_curve_goes_from_left_to_right_within_the_frame():
    text = charts.curves(np.arange(100.0), {"loss": np.linspace(2, 1, 100)}, "step").text
    lines = re.findall(r'points="([^"]+)"', text)
    assert len(lines) == 2
    places = np.array([[float(v) for v in point.split(",")] for point in lines[0].split()])
    assert (np.diff(places[:, 0]) > 0).all()
    assert (np.diff(places[:, 1]) > 0).all()  # y grows downwards, the loss falls
    assert places.min() >= 0
    assert (places <= [charts.WIDTH, charts.HEIGHT]).all()


def test_one_step_makes_a_curve_too():
    check_self_contained(html.document("x", charts.curves(np.zeros(1), {"loss": np.zeros(1)}, "step")))
