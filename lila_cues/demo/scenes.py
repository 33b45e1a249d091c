"""Random scenes, their pixels, and the ground truth that follows from them in closed form.

A camera moves over a ground plane with clutter and annotated objects. Every surface is a plane, so that all its motion
is a homography per frame. Layers are ordered from far to near and do not cross in depth at any pixel, so that painting
them in order is exact; edges are antialiased over one pixel. World and camera axes: x right, y down, z away from the
viewer, in meters. Pixel coordinates count from the center of the top left pixel. Angles are in radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy.random import Generator

from lila_cues.demo import textures

HEIGHT, WIDTH = 240, 320
OBJECT_TEXELS = 160
CLUTTER_TEXELS = 64
GROUND_TEXELS = 640
GROUND_DEPTH_M = 8.0  # at the center of the image
NEAREST_M, FARTHEST_M = 0.7, 3.6  # of the objects
HAZE_LENGTH_M = 22.0

Vector = Float[np.ndarray, " 3"]
Matrix = Float[np.ndarray, "3 3"]
Frame = int | float  # time in frames


@dataclass(frozen=True)
class Path3D:
    """A smooth path: straight, with a sinusoidal sway; by default it stays at `middle`."""

    middle: Vector
    velocity: Vector | float = 0.0  # per frame
    sway: Vector | float = 0.0  # amplitude
    period: float = 1.0  # frames
    phase: float = 0.0
    half: float = 0.0  # the frame at which the straight part reaches `middle`

    def at(self, t: Frame) -> Vector:
        swing = np.sin(2 * np.pi * t / self.period + self.phase)
        return self.middle + (t - self.half) * self.velocity + swing * self.sway


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that moves, rotates and zooms."""

    position: Path3D  # meters
    rotation: Path3D  # about x (tilt), y (pan), z (roll), radians
    zoom: Path3D  # x: focal length in image widths; y and z unused

    def projection(self, t: Frame) -> tuple[Matrix, Vector]:
        """Return M and c so that M (X − c) is the pixel of world point X times its depth in meters."""
        focal = self.zoom.at(t)[0] * WIDTH
        intrinsic = np.array([[focal, 0, (WIDTH - 1) / 2], [0, focal, (HEIGHT - 1) / 2], [0, 0, 1]])
        return intrinsic @ rotation(*self.rotation.at(t)).T, self.position.at(t)

    def point(self, t: Frame, pixel: tuple[float, float], depth: float) -> Vector:
        """Return the world point at `pixel` (x, y) and `depth` meters in frame t."""
        matrix, center = self.projection(t)
        return center + np.linalg.solve(matrix, depth * np.array([*pixel, 1.0]))


@dataclass(frozen=True)
class PlaneMotion:
    """A textured plane that moves and spins in itself, at a fixed tilt."""

    origin: Path3D  # world position of the texture's center, meters
    spin: Path3D  # z: angle in the plane, radians; x and y: the tilt
    texels: int  # side of the square texture
    meters_per_texel: float

    def homography(self, camera: Camera, t: Frame) -> Matrix:
        """Return the map from texels (x, y, 1) to pixels times depth: the third component is the depth in meters."""
        matrix, center = camera.projection(t)
        tilt_x, tilt_y, angle = self.spin.at(t)
        axes = rotation(tilt_x, tilt_y, 0.0) @ rotation(0.0, 0.0, angle)
        plane = np.column_stack([axes[:, 0], axes[:, 1], self.origin.at(t) - center])
        middle = (self.texels - 1) / 2
        scale = self.meters_per_texel
        to_meters = np.array([[scale, 0, -scale * middle], [0, scale, -scale * middle], [0, 0, 1]])
        return matrix @ plane @ to_meters


def rotation(about_x: float, about_y: float, about_z: float) -> Matrix:
    """Return the rotation about z first, then x, then y."""
    cx, sx, cy, sy, cz, sz = (f(a) for a in (about_x, about_y, about_z) for f in (np.cos, np.sin))
    turn_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return turn_y @ turn_x @ turn_z


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


def draw_scene(rng: Generator, frames: int) -> Scene:
    """Draw a scene with two to four annotated objects."""
    light = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.8, -0.3), 0.8])
    style = Style(
        palettes=(textures.draw_palette(rng, vivid=0.45), textures.draw_palette(rng)),
        haze=rng.uniform(0.55, 0.85, 3).astype(np.float32),
        light=(light / np.linalg.norm(light)).astype(np.float32),
    )
    focal = np.array([rng.uniform(0.95, 1.15), 0, 0])
    camera = Camera(
        position=_draw_path(rng, np.zeros(3), np.array([0.008, 0.004, 0.004]), np.array([0.02, 0.01, 0.01]), frames),
        rotation=_draw_path(rng, np.zeros(3), np.array([0.003, 0.005, 0.003]), np.array([0.006, 0.01, 0.006]), frames),
        zoom=_draw_path(rng, focal, np.array([0.003, 0, 0]), np.array([0.01, 0, 0]), frames),
    )
    ground = _draw_ground(rng, style, camera, frames / 2)
    clutter = [_draw_clutter(rng, style, camera, ground, frames / 2) for _ in range(int(rng.integers(4, 10)))]
    clutter.sort(key=lambda layer: -layer.motion.origin.at(frames / 2)[2])
    objects = _draw_objects(rng, style, camera, frames, count=int(rng.integers(2, 5)))
    return Scene(camera, (ground, *clutter, *objects), frames)


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
    views = scene.homographies(t)
    ground = cv2.warpPerspective(scene.layers[0].texture, views[0], (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
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


@dataclass(frozen=True)
class Truth:
    """The ground truth of one clip: masks, depth, flow between any two frames, visibility. Frames count from 0."""

    layers: UInt8[np.ndarray, "frames y x"]  # the layer visible at each pixel, 0 is the farthest
    homographies: Float[np.ndarray, "frames layers 3 3"]  # texels to pixels times depth in meters
    labels: UInt8[np.ndarray, " layers"]  # the annotated object of a layer, 0 for none

    def masks(self) -> UInt8[np.ndarray, "frames y x"]:
        """Return the annotated object at each pixel, 0 for background."""
        return self.labels[self.layers]

    def depth(self, t: int) -> Float32[np.ndarray, "y x"]:
        """Return relative inverse depth q = 100 / z of frame t, z in meters."""
        return (100 * self._texels(t)[2]).reshape(self.layers.shape[1:]).astype(np.float32)

    def flow(self, t: int, other: int) -> Float32[np.ndarray, "2 y x"]:
        """Return the displacement in pixels, x first, of the surface at each pixel from frame t to frame `other`."""
        there = np.einsum("nij,jn->in", self.homographies[other][self.layers[t].ravel()], self._texels(t))
        moved = (there[:2] / there[2]).reshape(2, *self.layers.shape[1:])
        return (moved - np.indices(self.layers.shape[1:])[::-1]).astype(np.float32)

    def visible(self, t: int, other: int) -> Bool[np.ndarray, "y x"]:
        """Return whether the surface at each pixel of frame t is inside frame `other` and not occluded there."""
        height, width = self.layers.shape[1:]
        x, y = np.rint(self.flow(t, other) + np.indices(self.layers.shape[1:])[::-1]).astype(int)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        seen = self.layers[other][np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        return inside & (seen == self.layers[t])

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **vars(self))

    @staticmethod
    def load(path: Path) -> Truth:
        with np.load(path, allow_pickle=False) as file:
            return Truth(**file)

    def _texels(self, t: int) -> np.ndarray:
        """Each pixel's point on its layer, times inverse depth: 3 × pixels."""
        y, x = np.indices(self.layers.shape[1:], float).reshape(2, -1)
        pixels = np.stack([x, y, np.ones_like(x)])
        return np.einsum("nij,jn->in", np.linalg.inv(self.homographies[t])[self.layers[t].ravel()], pixels)
