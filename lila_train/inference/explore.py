"""The explorer: one HTML page with images and their features, which needs no server and no network.

Features are kept along their principal directions, a byte per value, as deflated differences of neighbors;
`lila_cues/viz/templates/explore/codes.js` decodes them.
"""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from lila_cues.images import resize_short_side
from lila_cues.viz.html import data_url, render
from lila_cues.viz.pictures import Picture, pca_basis
from lila_train.model.lila import Lila
from lila_train.model.prepared import require_finite
from lila_train.model.resize import Size
from stores.errors import LilaError

LEVELS = 255
MAX_ERROR = 0.02  # of a cosine, for 99 of 100 pairs of vectors

Map = Float[np.ndarray, "_ _ _"]
Codes = UInt8[np.ndarray, "_ _ _"]


@dataclass(frozen=True)
class Explored:
    """One image with its pixel features and the encoder's tokens, both of length √channels so that one λ suits both."""

    name: str
    picture: UInt8[np.ndarray, "H W 3"]
    lila: Float[np.ndarray, "d h w"]
    encoder: Float[np.ndarray, "e y x"]
    size: Size  # height and width of the image itself
    file: str  # its name, or that of the video
    frame: int = 0  # of the video


@torch.inference_mode()
def explore_image(model: Lila, picture: Picture, name: str, size: int, file: str = "", frame: int = 0) -> Explored:
    """Compute the features of an image whose short side is resized to `size` pixels.

    A smaller image is not enlarged; a panorama becomes smaller, so that its long side is at most 4 × `size`. The
    picture that the page shows is at most twice as large as the feature map.
    """
    short, long = sorted(picture.shape[:2])
    size = max(1, min(size, short, 4 * size * short // long))
    image = torch.tensor(resize_short_side(picture, size)).permute(2, 0, 1)[None].to(model.device)
    maps = model(image, return_grid=True)
    tokens = maps.grid[0].float().cpu().numpy()
    length = np.linalg.norm(tokens, axis=0, keepdims=True)
    return Explored(
        name=name,
        picture=resize_short_side(picture, 2 * size) if short > 2 * size else picture,
        lila=require_finite(maps.map, "the model")[0].float().cpu().numpy(),
        encoder=tokens * (np.sqrt(len(tokens)) / np.maximum(length, 1e-12)),
        size=(picture.shape[0], picture.shape[1]),
        file=file or name,
        frame=frame,
    )


def write_page(out: Path, title: str, facts: str, images: Sequence[Explored], max_error: float = MAX_ERROR) -> None:
    """Write a page for all images, with as many directions of both features as keep cosines within `max_error`.

    Raises LilaError if there is no image.
    """
    if not images:
        raise LilaError("expected images to explore, found none; name some")
    features, errors = {}, []
    for name, label, maps in (
        ("lila", "LILA", [image.lila for image in images]),
        ("encoder", "encoder", [image.encoder for image in images]),
    ):
        book = code_book(maps, max_error)
        rows = sample(maps)
        decoded = book.decode(book.encode(rows.T[:, None]))[:, 0].T
        errors.append(f"{cosine_errors(rows, decoded)[-1]:.3f} ({label}, {len(book.low)} directions)")
        basis = pca_basis(decoded)  # of all images
        colors = {"weights": basis.weights.T.tolist(), "offset": basis.offset.tolist()}
        features[name] = {
            "book": {"low": book.low.tolist(), "step": book.step.tolist(), "colors": colors},
            "images": [
                {"width": codes.shape[2], "height": codes.shape[1], "codes": pack(codes)}
                for codes in map(book.encode, maps)
            ],
        }
    error = f"Cosines in this page are within {' and '.join(errors)} of the model's, for 99 of 100 pairs."
    photos = [
        {
            "name": image.name,
            "photo": data_url(image.picture, "jpeg"),
            "file": image.file,
            "frame": image.frame,
            "height": image.size[0],
            "width": image.size[1],
        }
        for image in images
    ]
    record = {"images": photos, "features": features}
    render("explore.html", out, title=title, facts=f"{facts} {error}", record=record)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the paths without the folders that all of them share."""
    if len(paths) == 1:
        return [paths[0].name]
    absolute = [path.resolve() for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in absolute]))
    return [str(path.relative_to(shared)) for path in absolute]


@dataclass(frozen=True)
class CodeBook:
    """Encodes feature vectors as bytes along orthonormal axes; one for all images, so that they can be compared.

    Inner products of projections are those of the features, except for what lies outside the axes.
    """

    axes: Float[np.ndarray, "c k"]
    low: Float[np.ndarray, " k"]
    step: Float[np.ndarray, " k"]

    def encode(self, features: Map) -> Codes:
        """Return c×h×w features as k×h×w codes."""
        levels = np.tensordot(self.axes.T, features, 1)
        levels -= self.low[:, None, None]
        levels /= self.step[:, None, None]
        return np.clip(np.rint(levels), 0, LEVELS).astype(np.uint8)

    def decode(self, codes: Codes) -> Float[np.ndarray, "k h w"]:
        """Return the projections on the axes that the codes stand for."""
        return self.low[:, None, None] + self.step[:, None, None] * codes


def code_book(maps: Sequence[Map], max_error: float) -> CodeBook:
    """Return a code book of the directions along which the features are longest.

    As few as keep `cosine_errors` within `max_error`; all of them where that is not possible.
    """
    rows = sample(maps)
    _, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    axes = np.ascontiguousarray(vectors[:, ::-1], dtype=np.float32)
    low, high = np.full(axes.shape[1], np.inf), np.full(axes.shape[1], -np.inf)
    for features in maps:
        projected = np.tensordot(axes.T, features, 1)
        low, high = np.minimum(low, projected.min(axis=(1, 2))), np.maximum(high, projected.max(axis=(1, 2)))
    book = CodeBook(axes, low.astype(np.float32), (np.maximum(high - low, 1e-6) / LEVELS).astype(np.float32))
    errors = cosine_errors(rows, book.decode(book.encode(rows.T[:, None]))[:, 0].T)
    enough = np.flatnonzero(errors <= max_error)
    kept = int(enough[0]) + 1 if len(enough) else len(errors)
    return CodeBook(np.ascontiguousarray(axes[:, :kept]), book.low[:kept], book.step[:kept])


def sample(maps: Sequence[Map]) -> Float[np.ndarray, "n c"]:
    """Return the feature vectors of about 40,000 pixels, evenly spread over all maps together."""
    total = sum(features[0].size for features in maps)
    step = max(1, total // 40_000)
    return np.concatenate([features.reshape(len(features), -1)[:, ::step].T for features in maps])


def cosine_errors(rows: Float[np.ndarray, "n c"], decoded: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """Return the error of the first 1, 2, …, k columns: the 99th percentile over 4,000 random pairs of vectors of the
    difference between their cosine and that of the rows."""
    rng = np.random.Generator(np.random.Philox(0))
    first, second = rng.integers(0, len(rows), (2, 4000))
    a, b = rows[first], rows[second]
    exact = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    a, b = decoded[first].astype(np.float64), decoded[second].astype(np.float64)
    lengths = np.sqrt((a * a).cumsum(1) * (b * b).cumsum(1))
    return np.asarray(
        np.percentile(np.abs((a * b).cumsum(1) / np.maximum(lengths, 1e-12) - exact[:, None]), 99, axis=0)
    )


def pack(codes: Codes) -> str:
    """Return base64 of the deflated differences, modulo 256, between neighbors in a row and then between rows."""
    along = np.diff(codes, axis=2, prepend=np.zeros_like(codes[:, :, :1]))
    differences = np.diff(along, axis=1, prepend=np.zeros_like(codes[:, :1]))
    return base64.b64encode(zlib.compress(differences.tobytes(), 6)).decode("ascii")
