"""Feature maps in few bytes: the directions that matter, a byte for each value, differences of neighbours, deflate.

`assets/codes.js` is the reader.

Images with their features, at the size that a page has room for.

The page: images and their features in, one HTML file out that needs no server and no network.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from lila_cues.images import read_image, resized
from lila_cues.viz.pictures import pca_basis
from lila_train.model.lila import Lila
from stores.errors import LilaError

_SAMPLES = 40_000
_LEVELS = 255

Map = Float[np.ndarray, "_ _ _"]
Codes = UInt8[np.ndarray, "_ _ _"]


@dataclass(frozen=True)
class CodeBook:
    """What turns feature vectors into codes and back; one for all images, so that they can be compared.

    `axes` are orthonormal: inner products of projections are those of the features, but for what lies outside.
    """

    axes: Float[np.ndarray, "c k"]
    low: Float[np.ndarray, " k"]
    step: Float[np.ndarray, " k"]

    def encode(self, features: Map) -> Codes:
        """c×h×w features as k×h×w codes."""
        levels = np.tensordot(self.axes.T, features, 1)
        levels -= self.low[:, None, None]
        levels /= self.step[:, None, None]
        return np.clip(np.rint(levels), 0, _LEVELS).astype(np.uint8)

    def decode(self, codes: Codes) -> Float[np.ndarray, "k h w"]:
        """The projections that the codes stand for."""
        return self.low[:, None, None] + self.step[:, None, None] * codes


def code_book(maps: Sequence[Map], channels: int) -> CodeBook:
    """The `channels` directions (fewer where there are fewer) along which the features are longest."""
    rows = sample(maps)
    _, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    axes = np.ascontiguousarray(vectors[:, ::-1][:, :channels], dtype=np.float32)
    low, high = np.full(axes.shape[1], np.inf), np.full(axes.shape[1], -np.inf)
    for features in maps:
        shown = np.tensordot(axes.T, features, 1)
        low, high = np.minimum(low, shown.min(axis=(1, 2))), np.maximum(high, shown.max(axis=(1, 2)))
    return CodeBook(axes, low.astype(np.float32), (np.maximum(high - low, 1e-6) / _LEVELS).astype(np.float32))


def sample(maps: Sequence[Map]) -> Float[np.ndarray, "n c"]:
    """Feature vectors of about 40,000 pixels, evenly spread over all maps together."""
    total = sum(features[0].size for features in maps)
    step = max(1, total // _SAMPLES)
    return np.concatenate([features.reshape(len(features), -1)[:, ::step].T for features in maps])


def coded(rows: Float[np.ndarray, "n c"], book: CodeBook) -> Float[np.ndarray, "n k"]:
    """What is left of feature vectors after coding."""
    return book.decode(book.encode(rows.T[:, None, :]))[:, 0].T


def cosine_error(rows: Float[np.ndarray, "n c"], book: CodeBook, pairs: int = 4000) -> float:
    """By how much the cosines of random pairs of vectors differ after coding: the 99th percentile."""
    draw = np.random.Generator(np.random.Philox(0))
    first, second = draw.integers(0, len(rows), (2, pairs))
    difference = _cosines(rows, first, second) - _cosines(coded(rows, book), first, second)
    return float(np.percentile(np.abs(difference), 99))


def colors(rows: Float[np.ndarray, "n k"]) -> dict[str, list[Any]]:
    """How coded vectors become red, green and blue: their three principal components, one basis for all images."""
    basis = pca_basis(rows)
    scale = 1 / np.maximum(basis.high - basis.low, 1e-9)
    offset = -(basis.mean @ basis.axes + basis.low) * scale
    return {"weights": (basis.axes * scale).T.tolist(), "offset": offset.tolist()}


def packed(codes: Codes) -> str:
    """Base64 of the deflated differences, modulo 256, between neighbours in a row and then between rows."""
    along = np.diff(codes, axis=2, prepend=np.zeros_like(codes[:, :, :1]))
    differences = np.diff(along, axis=1, prepend=np.zeros_like(codes[:, :1]))
    return base64.b64encode(zlib.compress(differences.tobytes(), 6)).decode("ascii")


def _cosines(rows: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return (unit[first] * unit[second]).sum(axis=1)


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
        "book": {"low": book.low.tolist(), "step": book.step.tolist(), "colours": colors(coded(rows, book))},
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
    return (files("lila_train.inference") / "assets" / name).read_text("utf-8")


_LONGEST = 4  # times the size asked for: the longest side of a feature map


@torch.inference_mode()
def explored(model: Lila, path: Path, name: str, size: int) -> Explored:
    """The features of an image brought to `size` pixels on its short side, and a picture at most twice as large.

    A smaller image stays as it is; a panorama becomes smaller than asked, so that its long side stays in bounds.
    """
    picture = read_image(path)
    short, long = sorted(picture.shape[:2])
    size = max(1, min(size, short, _LONGEST * size * short // long))
    small = resized(picture, size)
    image = torch.tensor(small).permute(2, 0, 1)[None].to(model.device)
    shown = resized(picture, 2 * size) if min(picture.shape[:2]) > 2 * size else picture
    return Explored(
        name=name,
        picture=shown,
        lila=model(image)[0].float().cpu().numpy(),
        encoder=model.encode(image)[0].float().cpu().numpy(),
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """What tells files apart: their paths without the folders that all of them share."""
    if len(paths) == 1:
        return [paths[0].name]
    whole = [path.resolve() for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in whole]))
    return [str(path.relative_to(shared)) for path in whole]
