"""Outlines of objects, and their signed distance on a grid.

An outline is a closed polygon (points × 2, x right, y down) that fits the square [-1, 1]²; a shape is one outline or,
where it has a hole, two.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float
from numpy.random import Generator

Outline = Float[np.ndarray, "points 2"]
Shape = tuple[Outline, ...]

MARGIN = 1.15  # the grid covers [-MARGIN, MARGIN]²
_FINER = 4  # the outline is filled on a grid this much finer


def _polar(radius: np.ndarray) -> Outline:
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return points / np.abs(points).max()


def _angles(count: int = 240) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, count, endpoint=False)


def ellipse(rng: Generator) -> Shape:
    """An ellipse, up to twice as long as wide."""
    angle = _angles()
    return (np.stack([np.cos(angle), rng.uniform(0.5, 0.95) * np.sin(angle)], axis=-1),)


def polygon(rng: Generator) -> Shape:
    """An irregular polygon of three to seven corners."""
    corners = int(rng.integers(3, 8))
    angle = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * 2 * np.pi / corners
    points: Outline = rng.uniform(0.75, 1, corners)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return (points / np.abs(points).max(),)


def star(rng: Generator) -> Shape:
    """A star of four to seven points."""
    corners = 2 * int(rng.integers(4, 8))
    return (_polar(np.where(np.arange(corners) % 2, rng.uniform(0.42, 0.6), 1.0)),)


def flower(rng: Generator) -> Shape:
    """Three to seven round petals."""
    return (_polar(1 + rng.uniform(0.18, 0.4) * np.cos(rng.integers(3, 8) * _angles())),)


def blob(rng: Generator) -> Shape:
    """A smooth lobed outline: a circle with four random harmonics."""
    radius = np.ones(240)
    for harmonic in range(2, 6):
        radius += rng.normal(0, 0.35 / harmonic) * np.cos(harmonic * _angles() + rng.uniform(0, 2 * np.pi))
    return (_polar(np.maximum(radius, 0.35)),)


def crescent(rng: Generator) -> Shape:
    """A moon: the outer arc of one circle, the inner arc of another."""
    half = np.linspace(-0.5, 0.5, 100) * np.pi
    depth = rng.uniform(0.15, 0.4)
    outer = np.stack([np.cos(half), np.sin(half)], axis=-1)
    inner = np.stack([depth * np.cos(half), np.sin(half)], axis=-1)[::-1]
    return (np.concatenate([outer, inner]) - (0.5, 0),)


def ring(rng: Generator) -> Shape:
    """An annulus through whose hole one sees what is behind."""
    outer = ellipse(rng)[0]
    return (outer, outer * rng.uniform(0.4, 0.55))


def cross(rng: Generator) -> Shape:
    """A plus sign."""
    half = rng.uniform(0.28, 0.42)
    arm = np.array([[1, -half], [1, half], [half, half]])
    quarter_turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return (np.concatenate([arm @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)]),)


def arrow(rng: Generator) -> Shape:
    """An arrow head with a shaft."""
    neck, shaft = rng.uniform(-0.1, 0.3), rng.uniform(0.22, 0.4)
    points = [[1, 0], [neck, 0.9], [neck, shaft], [-1, shaft], [-1, -shaft], [neck, -shaft], [neck, -0.9]]
    return (np.array(points),)


SHAPES: tuple[Callable[[Generator], Shape], ...] = (
    ellipse,
    polygon,
    star,
    flower,
    blob,
    crescent,
    ring,
    cross,
    arrow,
)


def signed_distance(shape: Shape, size: int) -> Float[np.ndarray, "size size"]:
    """Distance to the outline in cells of the grid, positive inside; exact to about a quarter of a cell."""
    fine = size * _FINER
    contours = [np.rint(((outline / MARGIN + 1) / 2 * fine - 0.5) * 16).astype(np.int32) for outline in shape]
    inside = np.zeros((fine, fine), np.uint8)
    cv2.fillPoly(inside, contours, 255, cv2.LINE_8, 4)
    distance = _distance(inside) - _distance(255 - inside)
    return cv2.resize((distance / _FINER).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)


def _distance(inside: np.ndarray) -> np.ndarray:
    """From a pixel of the set to the border between it and the rest (half a pixel before the next centre)."""
    return np.maximum(cv2.distanceTransform(inside, cv2.DIST_L2, 5) - 0.5, 0)


def relief(distance: Float[np.ndarray, "y x"], light: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "y x"]:
    """Shading of a body that is round at its edge and flat in the middle, lit from `light` (unit vector, z to us)."""
    depth = np.clip(distance / (0.16 * len(distance)), 0, 1)
    bulge = (0.11 * len(distance) * np.sqrt(1 - (1 - depth) ** 2)).astype(np.float32)
    height = cv2.GaussianBlur(bulge, (0, 0), len(distance) / 60)
    slope_y, slope_x = np.gradient(height)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(height)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return (0.5 + 0.62 * np.clip(normal @ light, 0, 1)).astype(np.float32)
