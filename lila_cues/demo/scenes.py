"""What a scene consists of, and how one is drawn at random: ground, clutter, objects, camera.

Layers are ordered from far to near and keep apart in depth at every pixel, so that painting them in order is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator

from lila_cues.demo.geometry import Camera, Frame, Path3D, PlaneMotion, still
from lila_cues.demo.textures import (
    GROUND_PATTERNS,
    MARGIN,
    PATTERNS,
    SHAPES,
    Palette,
    Pattern,
    coloured,
    draw_palette,
    relief,
    signed_distance,
)

HEIGHT, WIDTH = 240, 320
OBJECT_TEXELS = 160
CLUTTER_TEXELS = 64
GROUND_TEXELS = 640
GROUND_DEPTH_M = 8.0  # in the middle of the picture
HAZE_LENGTH_M = 22.0


@dataclass(frozen=True)
class Layer:
    """One textured plane; without `distance` it has no end."""

    label: int  # 0: background, else the annotated object
    motion: PlaneMotion
    texture: UInt8[np.ndarray, "texels texels 3"]
    distance: Float[np.ndarray, "texels texels"] | None  # to the outline in texels, positive inside


@dataclass(frozen=True)
class Scene:
    """A camera, and layers from far to near; the first is the ground and covers every pixel."""

    camera: Camera
    layers: tuple[Layer, ...]
    frames: int

    @property
    def labels(self) -> list[int]:
        """The label of every layer."""
        return [layer.label for layer in self.layers]


@dataclass(frozen=True)
class Mood:
    """What the things of one scene share."""

    palettes: tuple[Palette, ...]
    haze: Float[np.ndarray, " 3"]
    light: Float[np.ndarray, " 3"]  # unit vector, z towards the viewer

    def palette(self, rng: Generator) -> Palette:
        """One of the scene's palettes, half of the time a new one: objects may look alike, and like the ground."""
        if rng.random() < 0.5:
            return self.palettes[int(rng.integers(len(self.palettes)))]
        return draw_palette(rng)

    def veiled(self, texture: np.ndarray, depth_m: np.ndarray | float) -> UInt8[np.ndarray, "y x 3"]:
        """The texture as seen through the haze between it and the camera."""
        clear = np.exp(-np.asarray(depth_m, np.float32) / HAZE_LENGTH_M)[..., None]
        return np.rint(255 * np.clip(clear * texture + (1 - clear) * self.haze, 0, 1)).astype(np.uint8)


def draw_scene(rng: Generator, frames: int, objects: int | None = None) -> Scene:
    """A scene with two to four annotated objects, or as many as told."""
    mood = _draw_mood(rng)
    camera = _draw_camera(rng, frames)
    ground = _draw_ground(rng, mood, camera, frames)
    clutter = [_draw_clutter(rng, mood, camera, ground, frames) for _ in range(int(rng.integers(4, 10)))]
    count = int(rng.integers(2, 5)) if objects is None else objects
    things = _draw_objects(rng, mood, camera, frames, count)
    return Scene(camera=camera, layers=(ground, *_far_to_near(clutter, frames), *things), frames=frames)


def _far_to_near(layers: list[Layer], frames: int) -> list[Layer]:
    return sorted(layers, key=lambda layer: -layer.motion.origin.at(frames / 2)[2])


def _draw_mood(rng: Generator) -> Mood:
    light = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.8, -0.3), 0.8])
    return Mood(
        palettes=(draw_palette(rng, vivid=0.45), draw_palette(rng)),
        haze=rng.uniform(0.55, 0.85, 3).astype(np.float32),
        light=(light / np.linalg.norm(light)).astype(np.float32),
    )


# --- camera -------------------------------------------------------------------------------------------------------


def _drawn_path(rng: Generator, middle: np.ndarray, speed: np.ndarray, sway: np.ndarray, frames: int) -> Path3D:
    """A path through `middle` half-way, with a speed and a sway drawn up to the ones given, per axis."""
    return Path3D(
        middle=middle,
        velocity=rng.uniform(-1, 1, 3) * speed,
        sway=rng.uniform(-1, 1, 3) * sway,
        period=float(rng.uniform(14, 30)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        half=(frames - 1) / 2,
    )


def _draw_camera(rng: Generator, frames: int) -> Camera:
    focal = np.array([rng.uniform(0.95, 1.15), 0, 0])
    return Camera(
        height=HEIGHT,
        width=WIDTH,
        position=_drawn_path(rng, np.zeros(3), np.array([0.008, 0.004, 0.004]), np.array([0.02, 0.01, 0.01]), frames),
        turn=_drawn_path(rng, np.zeros(3), np.array([0.003, 0.005, 0.003]), np.array([0.006, 0.01, 0.006]), frames),
        zoom=_drawn_path(rng, focal, np.array([0.003, 0, 0]), np.array([0.01, 0, 0]), frames),
    )


# --- ground and clutter -------------------------------------------------------------------------------------------


def _draw_ground(rng: Generator, mood: Mood, camera: Camera, frames: int) -> Layer:
    """A wide plane that comes nearer towards the lower edge of the picture."""
    lean = np.array([rng.uniform(-0.9, -0.5), rng.uniform(-0.2, 0.2), rng.uniform(0, 2 * np.pi)])
    motion = PlaneMotion(
        origin=still(np.array([0, 0, GROUND_DEPTH_M])),
        spin=still(lean),
        texels=GROUND_TEXELS,
        metres_per_texel=GROUND_DEPTH_M / (0.9 * WIDTH),
    )
    pattern = GROUND_PATTERNS[int(rng.integers(len(GROUND_PATTERNS)))]
    texture = coloured(rng, _smoothed(pattern(rng, GROUND_TEXELS)), mood.palettes[0])
    depth = np.maximum(_depth_of_texels(motion.homography(camera, frames / 2)), 1.0)
    return Layer(label=0, motion=motion, texture=mood.veiled(texture, depth), distance=None)


def _depth_of_texels(homography: np.ndarray) -> np.ndarray:
    index = np.arange(GROUND_TEXELS)
    return homography[2, 0] * index[None, :] + homography[2, 1] * index[:, None] + homography[2, 2]


def _draw_clutter(rng: Generator, mood: Mood, camera: Camera, ground: Layer, frames: int) -> Layer:
    """A small thing that stands still in front of the ground and belongs to the background."""
    pixel = (rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT))
    radius_px = rng.uniform(8, 20)
    depth = 0.8 * _ground_depth(ground, camera, frames / 2, (pixel[0], pixel[1] + 2 * radius_px))
    origin = still(camera.point(frames / 2, pixel, depth))
    spin = still(np.array([0, 0, rng.uniform(0, 2 * np.pi)]))
    size_m = radius_px * depth / (camera.zoom.middle[0] * WIDTH)
    return _thing(rng, mood, 0, CLUTTER_TEXELS, size_m, depth, (origin, spin))


def _ground_depth(ground: Layer, camera: Camera, t: Frame, pixel: tuple[float, float]) -> float:
    return float(1 / np.linalg.solve(ground.motion.homography(camera, t), np.array([*pixel, 1.0]))[2])


# --- objects ------------------------------------------------------------------------------------------------------


def _draw_objects(rng: Generator, mood: Mood, camera: Camera, frames: int, count: int) -> list[Layer]:
    """Annotated objects 1..count from far to near, numbered in a random order."""
    nearest, farthest = 0.7, 3.6
    ratio = (farthest / nearest) ** (1 / count)
    slots = [farthest / ratio ** (i + rng.uniform(0.3, 0.7)) for i in range(count)]
    labels = rng.permutation(count) + 1
    seats = _spread(rng, count)
    return [
        _draw_object(rng, mood, camera, frames, int(label), depth, seat)
        for label, depth, seat in zip(labels, slots, seats, strict=True)
    ]


def _spread(rng: Generator, count: int) -> list[tuple[float, float]]:
    """Places (x, y in pixels) side by side in a random order, far ones higher: first frames are not one heap."""
    columns = (rng.permutation(count) + rng.uniform(0.3, 0.7, count)) / count
    rows = 0.3 + 0.4 * (np.arange(count) + rng.uniform(0, 1, count)) / count
    return [(WIDTH * (0.08 + 0.84 * float(x)), HEIGHT * float(y)) for x, y in zip(columns, rows, strict=True)]


def _draw_object(
    rng: Generator, mood: Mood, camera: Camera, frames: int, label: int, depth: float, seat: tuple[float, float]
) -> Layer:
    radius_px = rng.uniform(24, 52)
    metres_per_pixel = depth / (camera.zoom.middle[0] * WIDTH)
    origin = _drawn_path(
        rng,
        camera.point((frames - 1) / 2, seat, depth),
        metres_per_pixel * np.array([2.6, 1.3, 0]) + np.array([0, 0, 0.004 * depth]),
        metres_per_pixel * np.array([10.0, 8.0, 0]),
        frames,
    )
    lean = np.array([*rng.uniform(-0.35, 0.35, 2), rng.uniform(0, 2 * np.pi)])
    spin = _drawn_path(rng, lean, np.array([0, 0, 0.035]), np.array([0, 0, 0.1]), frames)
    return _thing(rng, mood, label, OBJECT_TEXELS, radius_px * metres_per_pixel, depth, (origin, spin))


def _smoothed(pattern: Pattern) -> Pattern:
    """Without the steps that would flicker when a pixel takes the nearest texels."""
    return cv2.GaussianBlur(pattern, (0, 0), 0.8)


def _thing(
    rng: Generator, mood: Mood, label: int, texels: int, radius_m: float, depth: float, paths: tuple[Path3D, Path3D]
) -> Layer:
    """A shape cut out of a texture and shaded; `radius_m` is half its longer side."""
    shape = SHAPES[int(rng.integers(len(SHAPES)))](rng)
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    distance = signed_distance(shape, texels)
    color = coloured(rng, _smoothed(pattern(rng, texels)), mood.palette(rng))
    lit = np.clip(color * relief(distance, mood.light)[..., None], 0, 1)
    motion = PlaneMotion(*paths, texels=texels, metres_per_texel=2 * MARGIN * radius_m / texels)
    return Layer(label=label, motion=motion, texture=mood.veiled(lit, depth), distance=distance)
