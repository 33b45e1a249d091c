"""The page in a real browser: clicks, keys, touch, no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lila_train.inference.explore import Explored
from lila_train.inference.masks import read_mask
from lila_train.inference.points import read_points


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, in a browser that is offline, refuses nothing in silence and sees every request."""
    context = browser.new_context(viewport={"width": 1000, "height": 900}, offline=True)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: troubles.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert [t for t in troubles if not t.startswith(("data:", page_file.as_uri()))] == []


def click(page: Any, panel: int, x: float, y: float, tap: bool = False) -> None:
    stage = page.locator(".stage").nth(panel)
    box = stage.bounding_box()
    (stage.tap if tap else stage.click)(position={"x": x * box["width"], "y": y * box["height"]})
    settle(page)


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    settle(page)


def settle(page: Any) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def shown(page: Any, panel: int) -> np.ndarray:
    """The pixels of a panel's overlay, h×w×3."""
    script = """(n) => {
      const canvas = document.querySelectorAll(".stage canvas")[n];
      const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return { data: Array.from(data), width, height };
    }"""
    found = page.evaluate(script, panel)
    return np.array(found["data"]).reshape(found["height"], found["width"], 4)[..., :3]


def pixel(image: np.ndarray, place: dict[str, float]) -> tuple[int, int]:
    """Row and column under a place that the page reports as fractions."""
    return int(place["y"] * image.shape[1]), int(place["x"] * image.shape[2])


def cosines(image: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return np.tensordot(vector, image, 1) / (np.linalg.norm(image, axis=0) * np.linalg.norm(vector))


def similarities(page: Any, panel: int) -> np.ndarray:
    return np.array(page.evaluate("(n) => Array.from(similarities[n])", panel))


def test_a_click_shows_the_cosine_in_every_image(opened: Any, explored: list[Explored]) -> None:
    click(opened, 0, 0.3, 0.7)
    row, column = pixel(explored[0].lila, opened.evaluate("state.point"))
    assert abs(row - 28) <= 1
    assert abs(column - 18) <= 1
    vector = explored[0].lila[:, row, column]
    for panel, image in enumerate(explored):
        expected = cosines(image.lila, vector)
        np.testing.assert_allclose(similarities(opened, panel).reshape(expected.shape), expected, atol=0.02)
    light = shown(opened, 0).sum(axis=-1)
    assert light[row, column] == light.max()
    assert light.shape == (40, 60)


def test_similarity_follows_the_pointer_until_it_is_held(opened: Any) -> None:
    box = opened.locator(".stage").nth(0).bounding_box()
    opened.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    settle(opened)
    before = similarities(opened, 1)
    click(opened, 0, 0.8, 0.5)
    held = similarities(opened, 1)
    assert np.abs(before - held).max() > 0.1
    opened.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    settle(opened)
    np.testing.assert_array_equal(similarities(opened, 1), held)
    assert opened.locator("figcaption output").nth(0).text_content().startswith("cosine ")
    press(opened, "Escape")
    opened.mouse.move(box["x"] + 0.25 * box["width"] + 0.5, box["y"] + 0.25 * box["height"])
    settle(opened)
    np.testing.assert_array_equal(similarities(opened, 1), before)


def test_features_are_those_of_lila_or_of_the_encoder(opened: Any, explored: list[Explored]) -> None:
    click(opened, 1, 0.5, 0.5)
    opened.click("button:text('Encoder')")
    settle(opened)
    row, column = pixel(explored[1].encoder, opened.evaluate("state.point"))
    expected = cosines(explored[0].encoder, explored[1].encoder[:, row, column])
    np.testing.assert_allclose(similarities(opened, 0).reshape(5, 7), expected, atol=0.02)
    assert shown(opened, 0).shape == (5, 7, 3)
    assert opened.locator("[data-features=encoder]").get_attribute("aria-pressed") == "true"
    press(opened, "f")
    assert shown(opened, 0).shape == (40, 60, 3)


def test_labels_fit_a_ridge_that_segments_the_rest(opened: Any, explored: list[Explored]) -> None:
    press(opened, "g")
    places = [(0, 0.2, 0.2, 1), (0, 0.85, 0.3, 2), (1, 0.5, 0.8, 3), (0, 0.5, 0.9, 2)]
    opened.evaluate("document.getElementById('brush').value = 0")
    for panel, x, y, label in places:
        press(opened, str(label))
        click(opened, panel, x, y)
    rows, labels = [], []
    for click_made in opened.evaluate("state.clicks"):
        image = explored[click_made["panel"]].lila
        rows.append([*image[:, *pixel(image, click_made)], 1])
        labels.append(np.eye(3)[click_made["label"]])
    x_, y_ = np.array(rows), np.array(labels)
    fit = np.linalg.solve(x_.T @ x_ / len(x_) + 0.1 * np.eye(13), x_.T @ y_ / len(x_))
    palette = np.array([[0xE4, 0x57, 0x2E], [0x2E, 0x86, 0xDE], [0x2F, 0xAE, 0x7B]])
    for panel, image in enumerate(explored):
        scores = np.tensordot(fit[:-1].T, image.lila, 1) + fit[-1][:, None, None]
        agree = (shown(opened, panel) == palette[scores.argmax(axis=0)]).all(axis=-1)
        assert agree.mean() > 0.98
    assert opened.locator("#status").text_content() == "Ridge fit to 4 clicks, 3 labels."


def test_lambda_and_brush_change_the_fit(opened: Any) -> None:
    press(opened, "g", "1")
    click(opened, 0, 0.2, 0.2)
    assert "another label" in opened.locator("#status").text_content()
    press(opened, "2")
    click(opened, 0, 0.8, 0.4)
    first = shown(opened, 1)
    for control, value in (("brush", "8"), ("lambda", "1")):
        opened.locator(f"#{control}").fill(value)
        settle(opened)
        assert (shown(opened, 1) != first).any()
    assert opened.locator("#lambda-value").text_content() == "10"


def test_keys_do_what_the_pointer_does(opened: Any) -> None:
    opened.locator(".stage").nth(1).focus()
    press(opened, "ArrowRight", "Shift+ArrowDown")
    point = opened.evaluate("state.point")
    assert point["panel"] == 1
    assert point["x"] == pytest.approx(0.5 + 1 / 30)
    assert point["y"] == pytest.approx(0.5 + 10 / 50)
    press(opened, "g", "3", "Enter", "ArrowLeft", "4", " ")
    assert [c["label"] for c in opened.evaluate("state.clicks")] == [2, 3]
    press(opened, "u")
    assert len(opened.evaluate("state.clicks")) == 1
    press(opened, "c")
    assert opened.evaluate("state.clicks") == []
    press(opened, "p")
    components = shown(opened, 0)
    assert components.reshape(-1, 3).std(axis=0).min() > 20
    press(opened, "i")
    assert opened.locator(".stage canvas").first.evaluate("canvas => canvas.style.opacity") == "0"


def test_taps_are_clicks(browser: Any, page_file: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready]")
    click(page, 0, 0.4, 0.6, tap=True)
    assert page.evaluate("state.held")
    assert page.evaluate("state.point").items() >= {"panel": 0, "x": pytest.approx(0.4, abs=0.01)}.items()
    page.tap("button:text('Segment')")
    click(page, 0, 0.4, 0.6, tap=True)
    assert len(page.evaluate("state.clicks")) == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def wait_for_status(page: Any, text: str) -> None:
    for _ in range(100):
        if page.locator("#status").text_content() == text:
            return
        page.wait_for_timeout(50)
    raise AssertionError(page.locator("#status").text_content())


def label(page: Any) -> None:
    """Two labels on the first image, the background on both."""
    press(page, "g")
    for panel, x, y, key in [(0, 0.2, 0.2, "1"), (0, 0.85, 0.3, "3"), (0, 0.5, 0.9, "0"), (1, 0.5, 0.8, "0")]:
        press(page, key)
        click(page, panel, x, y)


def test_labels_are_saved_and_loaded_again(opened: Any, tmp_path: Path) -> None:
    label(opened)
    opened.locator("#lambda").fill("-2")
    settle(opened)
    before, clicks = [shown(opened, panel) for panel in (0, 1)], opened.evaluate("state.clicks")
    with opened.expect_download() as saved:
        opened.click("#save")
    saved.value.save_as(tmp_path / "labels.json")
    points = read_points(tmp_path / "labels.json")
    np.testing.assert_allclose(points.xy[0], [0.2 * 240 - 0.5, 0.2 * 160 - 0.5], atol=0.5)
    assert points.files == ["wide <b>.png"] * 3 + ["tall.png"]
    assert [row["label"] for row in json.loads((tmp_path / "labels.json").read_text())["points"]] == [1, 3, 0, 0]
    opened.locator("#lambda").fill("1")
    press(opened, "c", "s")
    opened.set_input_files("#file", tmp_path / "labels.json")
    wait_for_status(opened, "4 labels loaded.")
    for panel in (0, 1):
        np.testing.assert_array_equal(shown(opened, panel), before[panel])
    for old, new in zip(clicks, opened.evaluate("state.clicks"), strict=True):
        assert {name: old[name] for name in ("panel", "label")} == {name: new[name] for name in ("panel", "label")}
        assert abs(old["x"] - new["x"]) + abs(old["y"] - new["y"]) < 1e-9
    other = (tmp_path / "labels.json").read_text().replace("tall.png", "other.png")
    for text, status in (
        ("{", "Expected a file that Save has written in a page like this; found another one."),
        (other, "3 labels loaded. 1 are of images that are not in this page."),
    ):
        (tmp_path / "other.json").write_text(text)
        opened.set_input_files("#file", tmp_path / "other.json")
        wait_for_status(opened, status)


def test_segments_are_saved_as_masks_that_can_be_tracked(opened: Any, tmp_path: Path) -> None:
    label(opened)
    overlay = shown(opened, 0)
    files: list[Any] = []
    opened.on("download", lambda file: files.append(file))
    opened.click("#masks")
    wait_for_status(opened, "2 masks saved.")
    for _ in range(20):
        if len(files) < 2:
            opened.wait_for_timeout(50)
    assert [file.suggested_filename for file in files] == ["wide_b_.png_mask.png", "tall.png_mask.png"]
    files[0].save_as(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.labels.shape == (160, 240)
    assert len(mask.values) == 3
    small = mask.labels[2::4, 2::4]
    for index in range(3):
        assert len(np.unique(overlay[small == index], axis=0)) == 1, "one color each, the background's clear"


def test_a_narrow_screen_shows_every_tool(browser: Any, page_file: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready]")
    for view in ("similarity", "segments"):
        page.click(f"button[data-view={view}]")
        for tool in page.locator(".bar button:visible, .bar input:visible, .bar output:visible").all():
            box = tool.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_names_are_text(opened: Any) -> None:
    assert opened.locator("figcaption span").first.get_attribute("title") == "wide <b>.png"
    assert opened.title() == "A & B"


def test_nothing_can_be_fetched(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        assert page.evaluate("fetch('https://example.org').then(() => true, () => false)") is False
    page.close()
