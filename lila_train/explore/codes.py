"""Feature maps in few bytes: the directions that matter, a byte for each value, differences of neighbours, deflate.

`assets/codes.js` is the reader.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from stores.pictures import pca_basis

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


def colours(rows: Float[np.ndarray, "n k"]) -> dict[str, list[Any]]:
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
