"""Procedural outlines and textures.

An outline is a closed polygon (points × 2, x right, y down) within the square [-1, 1]²; a shape is one outline or,
where it has a hole, two. A pattern is float32 in [0, 1] on a square grid, a texture is its values looked up in a
palette: float32 RGB in [0, 1], y×x×3. None is of one color, so that no object can be recognized by its color alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Float
from numpy.random import Generator

Outline = Float[np.ndarray, "points 2"]
Shape = tuple[Outline, ...]
Pattern = Float[np.ndarray, "y x"]
Palette = Float[np.ndarray, "colors 3"]

MARGIN = 1.15  # the grid covers [-MARGIN, MARGIN]²
_SUPERSAMPLING = 4  # of the grid on which an outline is filled
_ANGLES = np.linspace(0, 2 * np.pi, 240, endpoint=False)


def _polar(radius: np.ndarray, angle: np.ndarray | None = None) -> Outline:
    """Return an outline by its radius at angles (default: equally spaced), scaled to touch the square."""
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False) if angle is None else angle
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return points / np.abs(points).max()


def ellipse(rng: Generator) -> Shape:
    """Draw an ellipse, up to twice as long as wide."""
    return (np.stack([np.cos(_ANGLES), rng.uniform(0.5, 0.95) * np.sin(_ANGLES)], axis=-1),)


def polygon(rng: Generator) -> Shape:
    """Draw an irregular polygon of three to seven corners."""
    corners = int(rng.integers(3, 8))
    angle = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * 2 * np.pi / corners
    return (_polar(rng.uniform(0.75, 1, corners), angle),)


def star(rng: Generator) -> Shape:
    """Draw a star of four to seven points."""
    corners = 2 * int(rng.integers(4, 8))
    return (_polar(np.where(np.arange(corners) % 2, rng.uniform(0.42, 0.6), 1.0)),)


def flower(rng: Generator) -> Shape:
    """Draw three to seven round petals."""
    return (_polar(1 + rng.uniform(0.18, 0.4) * np.cos(rng.integers(3, 8) * _ANGLES)),)


def blob(rng: Generator) -> Shape:
    """Draw a smooth lobed outline: a circle with four random harmonics."""
    radius = np.ones(240)
    for harmonic in range(2, 6):
        radius += rng.normal(0, 0.35 / harmonic) * np.cos(harmonic * _ANGLES + rng.uniform(0, 2 * np.pi))
    return (_polar(np.maximum(radius, 0.35)),)


def crescent(rng: Generator) -> Shape:
    """Draw a moon: the outer arc of a circle, the inner arc of an ellipse."""
    half = np.linspace(-0.5, 0.5, 100) * np.pi
    depth = rng.uniform(0.15, 0.4)
    outer = np.stack([np.cos(half), np.sin(half)], axis=-1)
    inner = np.stack([depth * np.cos(half), np.sin(half)], axis=-1)[::-1]
    return (np.concatenate([outer, inner]) - (0.5, 0),)


def ring(rng: Generator) -> Shape:
    """Draw an elliptic annulus with a see-through hole."""
    outer = ellipse(rng)[0]
    return (outer, outer * rng.uniform(0.4, 0.55))


def cross(rng: Generator) -> Shape:
    """Draw a plus sign."""
    half = rng.uniform(0.28, 0.42)
    arm = np.array([[1, -half], [1, half], [half, half]])
    quarter_turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return (np.concatenate([arm @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)]),)


def arrow(rng: Generator) -> Shape:
    """Draw an arrow head with a shaft."""
    neck, shaft = rng.uniform(-0.1, 0.3), rng.uniform(0.22, 0.4)
    points = [[1, 0], [neck, 0.9], [neck, shaft], [-1, shaft], [-1, -shaft], [neck, -shaft], [neck, -0.9]]
    return (np.array(points),)


SHAPES: tuple[Callable[[Generator], Shape], ...] = (
    ellipse, polygon, star, flower, blob, crescent, ring, cross, arrow,
)  # fmt: skip


def signed_distance(shape: Shape, size: int) -> Float[np.ndarray, "size size"]:
    """Return the distance to the outline in grid cells, positive inside; exact to about a quarter of a cell."""
    fine = size * _SUPERSAMPLING
    contours = [np.rint(((outline / MARGIN + 1) / 2 * fine - 0.5) * 16).astype(np.int32) for outline in shape]
    mask = np.zeros((fine, fine), np.uint8)
    cv2.fillPoly(mask, contours, 255, cv2.LINE_8, 4)
    # The border lies half a pixel before the nearest pixel center of the other side.
    inside, outside = (np.maximum(cv2.distanceTransform(m, cv2.DIST_L2, 5) - 0.5, 0) for m in (mask, 255 - mask))
    distance = ((inside - outside) / _SUPERSAMPLING).astype(np.float32)
    return cv2.resize(distance, (size, size), interpolation=cv2.INTER_AREA)


def relief(distance: Float[np.ndarray, "y x"], light: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "y x"]:
    """Shade a body with round edges and a flat middle, lit from `light` (unit vector, z towards the viewer)."""
    depth = np.clip(distance / (0.16 * len(distance)), 0, 1)
    bulge = (0.11 * len(distance) * np.sqrt(1 - (1 - depth) ** 2)).astype(np.float32)
    height = cv2.GaussianBlur(bulge, (0, 0), len(distance) / 60)
    slope_y, slope_x = np.gradient(height)
    normal = np.stack([-slope_x, -slope_y, np.ones_like(height)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return (0.5 + 0.62 * np.clip(normal @ light, 0, 1)).astype(np.float32)


def fractal_noise(rng: Generator, size: int, coarsest: int = 4, octaves: int = 5) -> Pattern:
    """Sum smooth random maps, each twice as fine and 0.55 times as strong as the one before, scaled to [0, 1]."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = min(coarsest << octave, size)
        lattice = rng.random((cells + 3, cells + 3), dtype=np.float32)
        total += 0.55**octave * cv2.resize(lattice, (size, size), interpolation=cv2.INTER_CUBIC)
    return _stretched(total)


def _stretched(values: np.ndarray) -> Pattern:
    low, high = np.percentile(values, (2, 98))
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def clouds(rng: Generator, size: int) -> Pattern:
    """Draw noise, or noise folded at its mean, which gives soft ridges."""
    noise = fractal_noise(rng, size, int(rng.integers(3, 8)))
    return _stretched(np.abs(noise - 0.5)) if rng.random() < 0.5 else noise


def marble(rng: Generator, size: int) -> Pattern:
    """Draw parallel veins, bent by noise."""
    x = np.linspace(-1, 1, size, dtype=np.float32)
    y = x[:, None]
    angle, waves = rng.uniform(0, np.pi), rng.uniform(5, 12)
    phase = waves * (np.cos(angle) * x + np.sin(angle) * y) + 5 * fractal_noise(rng, size)
    return (0.5 + 0.5 * np.sin(phase)).astype(np.float32)


def wood(rng: Generator, size: int) -> Pattern:
    """Draw rings around a random point, with a fine grain."""
    x = np.linspace(-1, 1, size, dtype=np.float32)
    y = x[:, None]
    center, rings = rng.uniform(-1.5, 1.5, 2), rng.uniform(5, 10)
    radius = np.hypot(x - center[0], 0.5 * (y - center[1])) + 0.25 * fractal_noise(rng, size, 3, 3)
    return _stretched(np.mod(radius * rings, 1) + 0.25 * fractal_noise(rng, size, 24, 3))


def stripes(rng: Generator, size: int) -> Pattern:
    """Draw slightly wavy bands with soft edges, of two widths."""
    x = np.linspace(-1, 1, size, dtype=np.float32)
    y = x[:, None]
    angle, count = rng.uniform(0, np.pi), rng.uniform(3, 7)
    along = np.cos(angle) * x + np.sin(angle) * y + 0.15 * fractal_noise(rng, size, 3, 2)
    band = np.sin(np.pi * count * along) + 0.5 * np.sin(2 * np.pi * count * along + 1)
    return (1 / (1 + np.exp(-6 * band))).astype(np.float32)


def dots(rng: Generator, size: int) -> Pattern:
    """Draw discs of varied size and gray, one per cell of a jittered grid."""
    cells = int(rng.integers(4, 9))
    step = size / cells
    canvas = np.full((size, size), 0.15, np.float32)
    for row in range(cells):
        for column in range(cells):
            x, y = np.rint((np.array([column, row]) + rng.uniform(0.3, 0.7, 2)) * step * 16).astype(int).tolist()
            radius, gray = step * rng.uniform(0.22, 0.42), rng.uniform(0.4, 1)
            cv2.circle(canvas, (x, y), int(radius * 16), gray, -1, cv2.LINE_AA, 4)
    return np.clip(canvas + 0.3 * (fractal_noise(rng, size) - 0.5), 0, 1)


def checks(rng: Generator, size: int) -> Pattern:
    """Draw checks: bands in two perpendicular directions."""
    x = np.linspace(-1, 1, size, dtype=np.float32)
    y = x[:, None]
    angle, count = rng.uniform(0, np.pi), rng.uniform(2.5, 5)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    bands = np.tanh(5 * np.sin(np.pi * count * u)) + np.tanh(5 * np.sin(np.pi * count * v))
    return _stretched(bands + 0.6 * fractal_noise(rng, size))


def cells(rng: Generator, size: int) -> Pattern:
    """Draw stones with dark joints: each pixel takes the gray of its nearest seed."""
    seeds = rng.random((int(rng.integers(25, 70)), 2)) * size
    free = np.full((size, size), 255, np.uint8)
    free[seeds[:, 1].astype(int), seeds[:, 0].astype(int)] = 0
    _, nearest = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    grays = rng.uniform(0.25, 1, nearest.max() + 1).astype(np.float32)[nearest]
    joints = cv2.morphologyEx(nearest.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
    tone = np.where(joints, np.float32(0), grays)
    return np.clip(cv2.GaussianBlur(tone, (0, 0), size / 200) + 0.25 * (fractal_noise(rng, size, 12) - 0.5), 0, 1)


PATTERNS: tuple[Callable[[Generator, int], Pattern], ...] = (clouds, marble, wood, stripes, dots, checks, cells)
GROUND_PATTERNS: tuple[Callable[[Generator, int], Pattern], ...] = (clouds, marble, wood, cells)


def draw_pattern(rng: Generator, size: int, patterns: Sequence[Callable[[Generator, int], Pattern]]) -> Pattern:
    """Draw one of `patterns`, without the steps that would flicker where a pixel takes the nearest texels."""
    pattern = patterns[int(rng.integers(len(patterns)))]
    return cv2.GaussianBlur(pattern(rng, size), (0, 0), 0.8)


def draw_palette(rng: Generator, vivid: float = 0.8) -> Palette:
    """Draw five colors from dark to light around a few hues, as sRGB in [0, 1]; `vivid` is the largest saturation."""
    hues = (rng.uniform(0, 1) + rng.choice([0.0, 0.08, 0.33, 0.5, 0.6], 5)) % 1 * 360
    lightness = np.sort(rng.uniform(0.12, 0.92, 5)) + rng.normal(0, 0.06, 5)
    saturation = rng.uniform(0.3 * vivid, vivid, 5)
    hls = np.stack([hues, np.clip(lightness, 0.06, 0.95), saturation], axis=-1).astype(np.float32)
    return cv2.cvtColor(hls[None], cv2.COLOR_HLS2RGB)[0]


def colored(rng: Generator, pattern: Pattern, palette: Palette) -> Float[np.ndarray, "y x 3"]:
    """Look the pattern's values up in the palette, with a fine grain and broad changes of light on top."""
    size = len(pattern)
    positions = np.linspace(0, 1, len(palette))
    color = np.stack([np.interp(pattern, positions, palette[:, i]) for i in range(3)], axis=-1).astype(np.float32)
    grain = 0.8 + 0.4 * fractal_noise(rng, size, size // 12, 3)
    light = 0.85 + 0.3 * fractal_noise(rng, size, 2, 2)
    return np.clip(color * (grain * light)[..., None], 0, 1)
