"""Random scenes, and their pixels: a camera over a ground plane with clutter and annotated objects.

Layers are ordered from far to near and do not cross in depth at any pixel, so that painting them in order is exact;
edges are antialiased over one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator

from lila_cues.demo import textures
from lila_cues.demo.geometry import Camera, Path3D, PlaneMotion, Truth

HEIGHT, WIDTH = 240, 320
OBJECT_TEXELS = 160
CLUTTER_TEXELS = 64
GROUND_TEXELS = 640
GROUND_DEPTH_M = 8.0  # at the center of the image
NEAREST_M, FARTHEST_M = 0.7, 3.6  # of the objects
HAZE_LENGTH_M = 22.0


@dataclass(frozen=True)
class Layer:
    """One textured plane; without `distance` it is unbounded."""

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
        return [layer.label for layer in self.layers]

    def homographies(self, t: int) -> Float[np.ndarray, "layers 3 3"]:
        """Return the homography of every layer in frame t."""
        return np.array([layer.motion.homography(self.camera, t) for layer in self.layers])


@dataclass(frozen=True)
class Style:
    """Colors and light that the layers of one scene share."""

    palettes: tuple[textures.Palette, ...]
    haze: Float[np.ndarray, " 3"]
    light: Float[np.ndarray, " 3"]  # unit vector, z towards the viewer

    def with_haze(self, texture: np.ndarray, depth_m: np.ndarray | float) -> UInt8[np.ndarray, "y x 3"]:
        """Blend a texture with the haze between it and the camera."""
        clear = np.exp(-np.asarray(depth_m, np.float32) / HAZE_LENGTH_M)[..., None]
        return np.rint(255 * np.clip(clear * texture + (1 - clear) * self.haze, 0, 1)).astype(np.uint8)


def draw_scene(rng: Generator, frames: int, objects: int | None = None) -> Scene:
    """Draw a scene with `objects` annotated objects; default: two to four."""
    light = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.8, -0.3), 0.8])
    style = Style(
        palettes=(textures.draw_palette(rng, vivid=0.45), textures.draw_palette(rng)),
        haze=rng.uniform(0.55, 0.85, 3).astype(np.float32),
        light=(light / np.linalg.norm(light)).astype(np.float32),
    )
    focal = np.array([rng.uniform(0.95, 1.15), 0, 0])
    camera = Camera(
        height=HEIGHT,
        width=WIDTH,
        position=_draw_path(rng, np.zeros(3), np.array([0.008, 0.004, 0.004]), np.array([0.02, 0.01, 0.01]), frames),
        rotation=_draw_path(rng, np.zeros(3), np.array([0.003, 0.005, 0.003]), np.array([0.006, 0.01, 0.006]), frames),
        zoom=_draw_path(rng, focal, np.array([0.003, 0, 0]), np.array([0.01, 0, 0]), frames),
    )
    ground = _draw_ground(rng, style, camera, frames / 2)
    clutter = [_draw_clutter(rng, style, camera, ground, frames / 2) for _ in range(int(rng.integers(4, 10)))]
    clutter.sort(key=lambda layer: -layer.motion.origin.at(frames / 2)[2])
    count = int(rng.integers(2, 5)) if objects is None else objects
    return Scene(camera, (ground, *clutter, *_draw_objects(rng, style, camera, frames, count)), frames)


def _draw_path(rng: Generator, middle: np.ndarray, speed: np.ndarray, sway: np.ndarray, frames: int) -> Path3D:
    """Draw a path through `middle` half-way, with at most the given speed and sway per axis."""
    return Path3D(
        middle=middle,
        velocity=rng.uniform(-1, 1, 3) * speed,
        sway=rng.uniform(-1, 1, 3) * sway,
        period=float(rng.uniform(14, 30)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        half=(frames - 1) / 2,
    )


def _draw_ground(rng: Generator, style: Style, camera: Camera, half: float) -> Layer:
    """Draw a wide plane that comes nearer towards the lower edge of the image."""
    tilt = np.array([rng.uniform(-0.9, -0.5), rng.uniform(-0.2, 0.2), rng.uniform(0, 2 * np.pi)])
    motion = PlaneMotion(
        origin=Path3D(np.array([0, 0, GROUND_DEPTH_M])),
        spin=Path3D(tilt),
        texels=GROUND_TEXELS,
        meters_per_texel=GROUND_DEPTH_M / (0.9 * WIDTH),
    )
    pattern = textures.draw_pattern(rng, GROUND_TEXELS, textures.GROUND_PATTERNS)
    texture = textures.colored(rng, pattern, style.palettes[0])
    along_x, along_y, offset = motion.homography(camera, half)[2]
    index = np.arange(GROUND_TEXELS)
    depth = np.maximum(along_x * index[None, :] + along_y * index[:, None] + offset, 1.0)
    return Layer(label=0, motion=motion, texture=style.with_haze(texture, depth), distance=None)


def _draw_clutter(rng: Generator, style: Style, camera: Camera, ground: Layer, half: float) -> Layer:
    """Draw a small static shape in front of the ground that belongs to the background."""
    x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    radius_px = rng.uniform(8, 20)
    below = np.array([x, y + 2 * radius_px, 1.0])
    depth = 0.8 * float(1 / np.linalg.solve(ground.motion.homography(camera, half), below)[2])
    origin = Path3D(camera.point(half, (x, y), depth))
    spin = Path3D(np.array([0, 0, rng.uniform(0, 2 * np.pi)]))
    radius_m = radius_px * depth / (camera.zoom.middle[0] * WIDTH)
    return _draw_cutout(rng, style, 0, CLUTTER_TEXELS, radius_m, depth, origin, spin)


def _draw_objects(rng: Generator, style: Style, camera: Camera, frames: int, count: int) -> list[Layer]:
    """Draw annotated objects 1..count from far to near, numbered in a random order.

    They start side by side in a random order, far ones higher, so that first frames are not one heap.
    """
    ratio = (FARTHEST_M / NEAREST_M) ** (1 / count)
    depths = [FARTHEST_M / ratio ** (i + rng.uniform(0.3, 0.7)) for i in range(count)]
    labels = rng.permutation(count) + 1
    columns = (rng.permutation(count) + rng.uniform(0.3, 0.7, count)) / count
    rows = 0.3 + 0.4 * (np.arange(count) + rng.uniform(0, 1, count)) / count
    layers = []
    for label, depth, column, row in zip(labels, depths, columns, rows, strict=True):
        center = (WIDTH * (0.08 + 0.84 * float(column)), HEIGHT * float(row))
        radius_px = rng.uniform(24, 52)
        meters_per_pixel = depth / (camera.zoom.middle[0] * WIDTH)
        origin = _draw_path(
            rng,
            camera.point((frames - 1) / 2, center, depth),
            meters_per_pixel * np.array([2.6, 1.3, 0]) + np.array([0, 0, 0.004 * depth]),
            meters_per_pixel * np.array([10.0, 8.0, 0]),
            frames,
        )
        tilt = np.array([*rng.uniform(-0.35, 0.35, 2), rng.uniform(0, 2 * np.pi)])
        spin = _draw_path(rng, tilt, np.array([0, 0, 0.035]), np.array([0, 0, 0.1]), frames)
        radius_m = radius_px * meters_per_pixel
        layers.append(_draw_cutout(rng, style, int(label), OBJECT_TEXELS, radius_m, depth, origin, spin))
    return layers


def _draw_cutout(
    rng: Generator, style: Style, label: int, texels: int, radius_m: float, depth: float, origin: Path3D, spin: Path3D
) -> Layer:
    """Draw a shape cut out of a shaded texture; `radius_m` is half its longer side."""
    shape = textures.SHAPES[int(rng.integers(len(textures.SHAPES)))](rng)
    distance = textures.signed_distance(shape, texels)
    pattern = textures.draw_pattern(rng, texels, textures.PATTERNS)
    shared = rng.random() < 0.5  # objects may resemble each other and the ground
    palette = style.palettes[int(rng.integers(len(style.palettes)))] if shared else textures.draw_palette(rng)
    color = textures.colored(rng, pattern, palette)
    lit = np.clip(color * textures.relief(distance, style.light)[..., None], 0, 1)
    motion = PlaneMotion(origin, spin, texels=texels, meters_per_texel=2 * textures.MARGIN * radius_m / texels)
    return Layer(label=label, motion=motion, texture=style.with_haze(lit, depth), distance=distance)


def render_scene(scene: Scene) -> tuple[UInt8[np.ndarray, "frames y x 3"], Truth]:
    """Return all frames of a scene as RGB, and their ground truth."""
    frames = [render_frame(scene, t) for t in range(scene.frames)]
    return np.stack([rgb for rgb, _ in frames]), Truth(
        layers=np.stack([layers for _, layers in frames]),
        homographies=np.stack([scene.homographies(t) for t in range(scene.frames)]),
        labels=np.array(scene.labels, np.uint8),
    )


def render_frame(scene: Scene, t: int) -> tuple[UInt8[np.ndarray, "y x 3"], UInt8[np.ndarray, "y x"]]:
    """Return frame t as RGB, and the index of the layer visible at each pixel."""
    size = (scene.camera.width, scene.camera.height)
    views = scene.homographies(t)
    ground = cv2.warpPerspective(scene.layers[0].texture, views[0], size, borderMode=cv2.BORDER_REFLECT)
    canvas = ground.astype(np.float32)
    visible = np.zeros(canvas.shape[:2], np.uint8)
    for index in range(1, len(scene.layers)):
        _paint_layer(canvas, visible, index, scene.layers[index], views[index])
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8), visible


def _paint_layer(canvas: np.ndarray, visible: np.ndarray, index: int, layer: Layer, view: np.ndarray) -> None:
    """Paint a layer over the part of the frame that its texture can cover."""
    assert layer.distance is not None
    texels = layer.motion.texels
    low, high = -0.5, texels - 0.5
    corners = view @ np.array([[low, high, high, low], [low, low, high, high], [1, 1, 1, 1]])
    x, y = corners[:2] / corners[2]
    left, right = max(int(np.floor(x.min())), 0), min(int(np.ceil(x.max())) + 1, canvas.shape[1])
    top, bottom = max(int(np.floor(y.min())), 0), min(int(np.ceil(y.max())) + 1, canvas.shape[0])
    if left >= right or top >= bottom:
        return
    shifted = np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]]) @ view
    size = (right - left, bottom - top)
    distance = cv2.warpPerspective(layer.distance, shifted, size, borderValue=-float(texels))
    color = cv2.warpPerspective(layer.texture, shifted, size, borderMode=cv2.BORDER_REPLICATE)
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))  # of the projected texture
    pixels_per_texel = float(np.sqrt(area) / texels)
    cover = np.clip(distance * pixels_per_texel + 0.5, 0, 1)[..., None]
    region = canvas[top:bottom, left:right]
    region += cover * (color - region)
    visible[top:bottom, left:right][distance > 0] = index
