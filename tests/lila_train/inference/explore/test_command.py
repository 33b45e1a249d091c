"""`lila-train explore`: from images to a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import lila_train
from lila_train.cli import app
from lila_train.inference.explore import explore_image, short_names
from stores.errors import LilaError
from tests.lila_train.inference.models import write_test_video


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name, size in (("a.png", (90, 60)), ("sub/a.png", (40, 80))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size).save(folder / name)
    return folder


def explore(weights: Path, out: Path, *paths: Path) -> list[str]:
    names = [str(path) for path in paths]
    return ["explore", *names, "--weights", str(weights), "--out", str(out), "--size", "32", "--frames", "2"]


def test_the_command_writes_a_page_and_prints_its_size(pictures: Path, weights: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, explore(weights, tmp_path / "new/page.html", pictures / "a.png", pictures / "sub/a.png")
    )
    assert result.exit_code == 0, result.output
    assert "2 images, 0." in result.output
    assert " MB" in result.output
    text = (tmp_path / "new/page.html").read_text()
    assert "sub/a.png" in text
    assert "{{" not in text


def test_a_bad_image_is_reported_and_the_rest_is_there(pictures: Path, weights: Path, tmp_path: Path) -> None:
    (pictures / "bad.png").write_text("hello")
    result = CliRunner().invoke(app, explore(weights, tmp_path / "page.html", pictures))
    assert isinstance(result.exception, LilaError)
    assert str(result.exception).startswith("2 of 3 files are in ")
    assert "bad.png" in str(result.exception)
    result = CliRunner().invoke(app, explore(weights, tmp_path / "none.html", pictures / "bad.png"))
    assert str(result.exception).startswith("no image to explore; ")
    assert not (tmp_path / "none.html").exists()


def test_videos_give_frames(weights: Path, tmp_path: Path) -> None:
    """Both features are kept within 0.02, and say so."""
    write_test_video(tmp_path / "clip.mp4", frames=7, size=(64, 96))
    result = CliRunner().invoke(app, explore(weights, tmp_path / "page.html", tmp_path / "clip.mp4"))
    assert result.exception is None, result.exception
    assert "2 images, " in result.output
    page = (tmp_path / "page.html").read_text()
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])
    found = [(image["name"], image["frame"], image["height"], image["width"]) for image in data["images"]]
    assert found == [("clip.mp4 #0", 0, 64, 96), ("clip.mp4 #3", 3, 64, 96)]
    errors = re.search(r"within (0\.0\d\d) \(LILA, \d+ directions\) and (0\.0\d\d) \(encoder, \d+ directions\)", page)
    assert errors
    assert max(map(float, errors.groups())) <= 0.02
    (tmp_path / "bad.mp4").write_bytes(b"")
    result = CliRunner().invoke(app, explore(weights, tmp_path / "none.html", tmp_path / "bad.mp4"))
    assert "no image to explore; " in str(result.exception)


@pytest.mark.parametrize(
    ("size", "shape"),
    [((30_000, 300), (1, 100)), ((1, 1), (1, 1)), ((300, 40), (17, 128)), ((50, 80), (51, 32))],
)
def test_the_size_of_maps_is_bounded_for_any_aspect(
    weights: Path, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    """At most 32 px on the short side and about 128 on the long one."""
    picture = np.zeros((*size[::-1], 3), np.uint8)
    found = explore_image(lila_train.load(weights), picture, "a", 32).lila
    assert found.shape[1:] == shape


def test_short_names_are_unique() -> None:
    assert short_names([Path("x/a.png")]) == ["a.png"]
    assert short_names([Path("x/y/a.png"), Path("x/z/a.png")]) == ["y/a.png", "z/a.png"]
