"""The page: images and their features in, one HTML file out that needs no server and no network."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lila_train.explore.codes import code_book, coded, colours, cosine_error, packed, sample
from stores.errors import LilaError

_SCRIPTS = ("codes.js", "algebra.js", "paint.js", "panels.js", "main.js")
_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Explored:
    """One image with the pixel features and the encoder's grid of the same image."""

    name: str
    picture: UInt8[np.ndarray, "H W 3"]
    lila: Float[np.ndarray, "d h w"]
    encoder: Float[np.ndarray, "e y x"]


def build_page(title: str, facts: str, images: Sequence[Explored], channels: int) -> str:
    """The HTML of one page for all of the images; the `channels` strongest directions of LILA's features are kept.

    Of the encoder's, twice as many are kept. Raises LilaError where there is no image.
    """
    if not images:
        raise LilaError("expected images to explore, found none; name some")
    features, errors = {}, {}
    for name, maps in (("lila", [i.lila for i in images]), ("encoder", [_scaled(i.encoder) for i in images])):
        features[name], errors[name] = _coded(maps, channels if name == "lila" else 2 * channels)
    photos = [{"name": image.name, "photo": _photo(image.picture)} for image in images]
    error = ", ".join(f"{errors[name]:.3f} ({label})" for name, label in (("lila", "LILA"), ("encoder", "encoder")))
    parts = {
        "title": html.escape(title),
        "facts": html.escape(f"{facts} Cosines in this page are within {error} of the model's, for 99 of 100 pairs."),
        "style": _asset("page.css"),
        "script": "\n".join(_asset(name) for name in _SCRIPTS),
        "data": json.dumps({"images": photos, "features": features}).replace("</", "<\\/"),
    }
    text = _asset("page.html")
    for name, content in parts.items():
        text = text.replace("{{" + name + "}}", content)
    return text


def _coded(maps: Sequence[Float[np.ndarray, "_ _ _"]], channels: int) -> tuple[dict[str, Any], float]:
    """The features of all images as the page's script reads them."""
    book, rows = code_book(maps, channels), sample(maps)
    codes = [book.encode(features) for features in maps]
    record = {
        "book": {"low": book.low.tolist(), "step": book.step.tolist(), "colours": colours(coded(rows, book))},
        "images": [{"width": c.shape[2], "height": c.shape[1], "codes": packed(c)} for c in codes],
    }
    return record, cosine_error(rows, book)


def _scaled(grid: Float[np.ndarray, "e y x"]) -> Float[np.ndarray, "e y x"]:
    """Tokens brought to the length that LILA's features have, √channels, so that one λ means the same for both."""
    length = np.linalg.norm(grid, axis=0, keepdims=True)
    return grid * (np.sqrt(len(grid)) / np.maximum(length, 1e-12))


def _photo(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _asset(name: str) -> str:
    return (files("lila_train.explore") / "assets" / name).read_text("utf-8")
