"""Pages: text is escaped, pictures come back as they went in, nothing is fetched, a missing name is an error."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image

from lila_cues.viz import charts, html
from lila_cues.viz.html import ENVIRONMENT, Figure, Gallery, Row, data_url
from stores.errors import LilaError

EMPTY_TAGS = {"meta", "img", "br", "input"}
MACROS = ENVIRONMENT.get_template("macros.html").module
EVIL = "<b onload='x'>&\"</script>{{ 1 }}$"


class Balance(HTMLParser):
    """Follows what is open, ids, and everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in EMPTY_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_self_contained(text: str) -> None:
    """Every tag closed, ids unique, nothing fetched, no script."""
    found = Balance()
    found.feed(text)
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    assert all(value.startswith("data:image/") for value in found.fetched)
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text


def gallery_html(gallery: Gallery) -> str:
    return str(MACROS.gallery(gallery))


def pixels_of(url: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) as picture:
        return np.asarray(picture)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.Generator(np.random.Philox(0)).integers(0, 256, (5, 7, 3), np.uint8)


def test_a_png_is_lossless_and_a_jpeg_nearly(picture):
    assert data_url(picture).startswith("data:image/png;")
    np.testing.assert_array_equal(pixels_of(data_url(picture)), picture)
    smooth = np.full((16, 16, 3), 90, np.uint8)
    assert data_url(smooth, "jpeg").startswith("data:image/jpeg;")
    np.testing.assert_allclose(pixels_of(data_url(smooth, "jpeg")), smooth, atol=2)
    assert data_url(b"<svg/>", "svg") == "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()


def test_text_is_escaped_wherever_it_is_put(picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    template = """{% extends "base.html" %}{% import "macros.html" as m %}{% block main %}
    {{ m.gallery(gallery) }}{{ m.chart(svg, title) }}{{ m.table([title], [[title]], [title], [title]) }}
    {{ m.facts(title, {title: {title: title, "none": none}}) }}{% endblock %}"""
    loader = jinja2.ChoiceLoader([jinja2.DictLoader({"evil.html": template}), ENVIRONMENT.loader])
    monkeypatch.setattr(ENVIRONMENT, "loader", loader)
    gallery = Gallery(EVIL, EVIL, [Row(EVIL, [Figure(picture, EVIL, EVIL), None], 2)])
    svg = charts.loss_curves([{"step": 0, "loss": 1.0}], {"loss": EVIL})
    html.render("evil.html", tmp_path / "new/page.html", title=EVIL, gallery=gallery, svg=svg)
    text = (tmp_path / "new/page.html").read_text()
    assert "<b onload" not in text
    assert "{{ 1 }}" in text  # a name is never a template
    assert text.count("&lt;b onload=&#39;x&#39;&gt;&amp;&#34;&lt;/script&gt;") == 16
    assert "</b>.<b" not in text
    check_self_contained(text)


def test_data_for_a_script_cannot_end_it(tmp_path: Path):
    record = {"images": [{"name": f"{EVIL}<!--<script>\udcff"}]}
    html.render("explore.html", tmp_path / "page.html", title="x\udcff", facts="y", record=record)
    text = (tmp_path / "page.html").read_text()
    assert (text.count("</script>"), text.count("<script>"), text.count("<!--")) == (2, 1, 0)
    assert r"x\udcff</title>" in text
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert json.loads(data) == record


def test_a_name_that_a_page_lacks_is_an_error_and_leaves_the_page(tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text("before")
    with pytest.raises(jinja2.UndefinedError, match="'summary' is undefined"):
        html.render("inspection.html", page, title="x")
    assert page.read_text() == "before"


def test_a_page_replaces_its_own_kind_alone(tmp_path: Path):
    page = tmp_path / "page.html"
    for _ in range(2):
        html.render("base.html", page, title="x")
    page.write_text("<!doctype html>mine")
    with pytest.raises(LilaError, match=r"found a file of something else; pass another --out"):
        html.render("base.html", page, title="x")
    assert page.read_text() == "<!doctype html>mine"
    with pytest.raises(LilaError, match="found a folder"):
        html.require_own(tmp_path)


def test_a_gallery_has_titles_figures_and_free_places(picture):
    rows = [Row("one", [Figure(picture, "a", "b", "jpeg"), Figure(picture, "c", enlarge=True)], 3), Row("", [None])]
    text = gallery_html(Gallery("Title", "Text", rows))
    assert "<h2>Title</h2>" in text
    assert text.count("<h3>") == 1
    assert 'alt="a" src="data:image/jpeg' in text
    assert '<img class="pixelated" alt="c" src="data:image/png' in text
    assert "<b>a</b> b</figcaption>" in text
    assert '<div class="row of3">' in text
    assert "<div></div>" in text


def test_a_table_keeps_cells_rows_and_styles():
    text = str(MACROS.table(["a", "b"], [["1", "2"], ["3", "4"]], ["b"], ["published"]))
    assert '<th>a</th><th class="words">b</th>' in text
    assert '<tr class="published"><td>1</td><td class="words small">2</td></tr>' in text
    assert '<tr><td>3</td><td class="words small">4</td></tr>' in text


def test_nested_settings_are_dotted():
    text = str(MACROS.facts("Model", {"a": {"b": {"c": 1, "d": None}}, "e": "f"}))
    assert re.findall(r'<td>(.*?)</td><td class="words">(.*?)</td>', text) == [
        ("a.b.c", "1"),
        ("a.b.d", "–"),
        ("e", "f"),
    ]
