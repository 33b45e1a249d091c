"""The image reader of both stages: every mode, the two switches, masks, depth, and what cannot be read."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from typer.testing import CliRunner

import lila_cues.cli
import lila_train.cli
from lila_cues.datasets import read_images
from lila_cues.images import read_depth, read_image, read_mask, read_stored
from lila_cues.inputs import max_pixels
from lila_cues.video.reader import VideoFrames
from stores.errors import LilaError
from tests.lila_cues import barcodes
from tests.lila_cues.barcodes import Clip


def read_frame(path: Path) -> np.ndarray:
    """A clip of one image, as stage one reads it."""
    return read_images([path], 24.0, lambda n_frames: [0], np.asarray).frames


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_every_mode_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    gray = np.full((6, 9), 128, np.uint8)
    image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    found = read_image(path)
    assert found.shape == (6, 9, 3)
    assert found.dtype == np.uint8
    if mode != "1":
        assert abs(int(found[3, 3, 0]) - 128) <= 2


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").max() == 1


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    layer = np.zeros((2, 2, 4), np.uint8)
    layer[0] = [10, 20, 30, 255]
    Image.fromarray(layer).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[:, 0], [[10, 20, 30], [255, 255, 255]])


@pytest.mark.parametrize("read", [read_image, read_mask, read_depth, read_frame, lambda path: list(VideoFrames(path))])
def test_one_limit_of_pixels_holds_for_all_and_can_be_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)  # Pillow refuses twice as many
    path = tmp_path / "wide.png"
    if read not in (read_image, read_mask, read_depth, read_frame):
        path = barcodes.write(tmp_path / "a.mp4", Clip(frames=1, size=(200, 400)))
    else:
        Image.fromarray(np.zeros((200, 400), np.uint16 if read is read_depth else np.uint8)).save(path)
    for limit in ("79999", "1000"):
        monkeypatch.setenv("LILA_MAX_PIXELS", limit)
        with pytest.raises(
            LilaError, match=r"has 0\.08 million pixels, more than .*; crop .*or raise the limit by --max-p"
        ):
            read(path)
    monkeypatch.setenv("LILA_MAX_PIXELS", "80000")
    read(path)
    monkeypatch.setenv("LILA_MAX_PIXELS", "many")
    with pytest.raises(LilaError, match=r"expected a number of pixels in \$LILA_MAX_PIXELS, found 'many'"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_mask, read_depth, read_frame])
@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "jpg"), ("CMYK", "jpg"), ("I;16", "png"), ("P", "png"), ("1", "png"), ("RGBA", "png"), ("I;16", "tif"),
     ("F", "tiff"), ("RGB", "webp"), ("RGB", "ppm"), ("RGB", "bmp")],
)  # fmt: skip
def test_pixels_beyond_the_limit_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], mode: str, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (8, 8)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("pixels were read"))
    monkeypatch.setenv("LILA_MAX_PIXELS", "63")
    with pytest.raises(LilaError, match=rf"a\.{suffix} has 6\.4e-05 million pixels, more than 6\.3e-05; crop or"):
        read(path)


def test_the_limit_of_pixels_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILA_MAX_PIXELS", "7")
    for app in (lila_cues.cli.app, lila_train.cli.app):
        CliRunner().invoke(app, ["--max-pixels", "80000", "--version"])
        CliRunner().invoke(app, ["--max-pixels", "80000", "profiles" if app is lila_cues.cli.app else "recipes"])
        assert max_pixels() == 80_000
        monkeypatch.setenv("LILA_MAX_PIXELS", "7")


def save_modes(folder: Path) -> dict[str, Path]:
    """Write images of 2×3 px: left column (200, 100, 50) or its gray, right column transparent where the mode can."""
    color = np.full((2, 3, 4), (200, 100, 50, 255), np.uint8)
    color[:, -1, 3] = 0
    rgba = Image.fromarray(color)
    indexed = Image.new("P", (3, 2))
    indexed.putpalette([200, 100, 50, 1, 2, 3])
    images = {
        "rgb.png": (rgba.convert("RGB"), {}),
        "rgba.png": (rgba, {}),
        "la.png": (rgba.convert("LA"), {}),
        "palette.png": (indexed, {"transparency": 0}),
        "gray16.png": (Image.fromarray(np.full((2, 3), 100 * 257, np.uint16)), {}),
        "cmyk.tif": (Image.new("CMYK", (3, 2), (55, 155, 205, 0)), {}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in images}


GRAY = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
MODES = {  # left and right pixel over white, and without the alpha channel
    "rgb.png": ((200, 100, 50), (200, 100, 50), (200, 100, 50)),
    "rgba.png": ((200, 100, 50), (255, 255, 255), (200, 100, 50)),
    "la.png": ((GRAY,) * 3, (255, 255, 255), (GRAY,) * 3),
    "palette.png": ((255, 255, 255), (255, 255, 255), (200, 100, 50)),
    "gray16.png": ((100,) * 3, (100,) * 3, (100,) * 3),
    "cmyk.tif": ((200, 100, 50), (200, 100, 50), (200, 100, 50)),
}


@pytest.mark.parametrize("name", MODES)
def test_evaluation_and_stage_one_drop_alpha_and_features_lay_it_over_white(tmp_path: Path, name: str) -> None:
    path, (left, right, bare) = save_modes(tmp_path)[name], MODES[name]
    assert read_image(path)[0, [0, 2]].tolist() == [list(left), list(right)]
    for found in (read_stored(path), read_frame(path)[0]):
        assert found.dtype == np.uint8
        assert found[0, 2].tolist() == list(bare)
    assert read_image(path, background="black")[0, 2].max() in (0, max(bare))


def test_only_evaluation_leaves_an_image_as_it_lies(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (8, 4)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (8, 4, 3)
    assert read_frame(tmp_path / "a.jpg").shape == (1, 8, 4, 3)
    assert read_stored(tmp_path / "a.jpg").shape == (4, 8, 3)


def refuse(path: Path) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize("read", [read_image, read_mask, read_depth, read_frame])
def test_unreadable_files_are_named(tmp_path: Path, read: object, monkeypatch: pytest.MonkeyPatch) -> None:
    intact, photo, program = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(program, "eps")
    Image.effect_noise((64, 64), 90).save(intact, "png")
    Image.effect_noise((64, 64), 90).save(photo, "jpeg")
    assert callable(read)
    for name, content, found in (
        ("text.png", b"hello", "a file in no known image format"),
        ("program.jpg", program.getvalue(), "a file in no known image format"),
        ("cut.png", intact.getvalue()[:900], "one that cannot be decoded"),
        ("cut.jpg", photo.getvalue()[:-900], "one that cannot be decoded"),
        ("empty.jpg", b"", "an empty file"),
        ("absent.png", None, "no such file"),
        ("folder.png", "", "a folder"),
        ("gone.png", "nowhere", "a link that leads nowhere"),
        ("loop.png", "loop.png", r"one that cannot be read \(too many levels of symbolic links\)"),
        ("pipe.png", "pipe", "a pipe or a device"),
        ("closed.png", "closed", r"one that cannot be read \(permission denied\)"),
    ):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content == "":
            (tmp_path / name).mkdir()
        elif content == "pipe":
            os.mkfifo(tmp_path / name)
        elif content == "closed":
            (tmp_path / name).touch()
            monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
        elif content:
            (tmp_path / name).symlink_to(content)
        with pytest.raises(LilaError, match=f"{name}: expected an image, found {found}"):
            read(tmp_path / name)


def test_masks_are_read_by_index_and_depth_in_millimeters(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [7, 0, 1]], np.uint8)
    indexed = Image.fromarray(labels).convert("L")
    indexed.putpalette(np.arange(768, dtype=np.uint8)[::-1].tobytes())
    indexed.save(tmp_path / "indexed.png", transparency=1)
    Image.fromarray(labels).save(tmp_path / "gray.png")
    for name in ("indexed.png", "gray.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), labels)
    depth = np.array([[0, 1000], [65535, 1]], np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    np.testing.assert_array_equal(read_depth(tmp_path / "depth.png"), depth)
    with pytest.raises(LilaError, match=r"gray\.png: expected a 16-bit gray PNG in millimeters, found mode L"):
        read_depth(tmp_path / "gray.png")
