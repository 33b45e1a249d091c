"""Planes under a moving camera: every surface of a scene is a plane, so all its motion is a homography per frame.

World and camera axes: x right, y down, z away from the viewer, in metres. Pixels count from the centre of the top left
one. Angles are radians.

What is known of a rendered clip: which layer is seen at each pixel, and each layer's homography in each frame.

Masks, depth, flow between any two frames, and visibility follow in closed form; nothing is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

Vector = Float[np.ndarray, " 3"]
Matrix = Float[np.ndarray, "3 3"]
Frame = int | float  # time, counted in frames


@dataclass(frozen=True)
class Path3D:
    """A smooth path: straight, with a sway on top. `at(t)` is its position at frame t."""

    middle: Vector
    velocity: Vector  # per frame
    sway: Vector  # amplitude
    period: float  # frames
    phase: float
    half: float  # the frame at which `middle` is reached, but for the sway

    def at(self, t: Frame) -> Vector:
        """Position at frame t, in the unit of `middle`."""
        swing = np.sin(2 * np.pi * t / self.period + self.phase)
        return self.middle + (t - self.half) * self.velocity + swing * self.sway


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that moves, turns and zooms."""

    height: int
    width: int
    position: Path3D  # metres
    turn: Path3D  # about x (tilt), y (pan), z (roll), radians
    zoom: Path3D  # x: focal length in image widths; y and z unused

    def projection(self, t: Frame) -> tuple[Matrix, Vector]:
        """The matrix M and the centre c so that M (X − c) is the pixel of world point X times its depth in metres."""
        focal = self.zoom.at(t)[0] * self.width
        intrinsic = np.array([[focal, 0, (self.width - 1) / 2], [0, focal, (self.height - 1) / 2], [0, 0, 1]])
        return intrinsic @ rotation(*self.turn.at(t)).T, self.position.at(t)

    def point(self, t: Frame, pixel: tuple[float, float], depth: float) -> Vector:
        """The world point seen at `pixel` (x, y) and `depth` metres in frame t."""
        matrix, centre = self.projection(t)
        return centre + np.linalg.solve(matrix, depth * np.array([*pixel, 1.0]))


@dataclass(frozen=True)
class PlaneMotion:
    """Where a plane with a texture on it is: its origin moves, it spins in itself, its lean is fixed."""

    origin: Path3D  # world position of the texture's centre, metres
    spin: Path3D  # z: angle in the plane, radians; x and y: the lean
    texels: int  # the texture is square with this many texels a side
    metres_per_texel: float

    def homography(self, camera: Camera, t: Frame) -> Matrix:
        """From texels (x, y, 1) to pixels times depth: the third component is the depth in metres."""
        matrix, centre = camera.projection(t)
        lean_x, lean_y, angle = self.spin.at(t)
        axes = rotation(lean_x, lean_y, 0.0) @ rotation(0.0, 0.0, angle)
        plane = np.column_stack([axes[:, 0], axes[:, 1], self.origin.at(t) - centre])
        middle = (self.texels - 1) / 2
        scale = self.metres_per_texel
        to_metres = np.array([[scale, 0, -scale * middle], [0, scale, -scale * middle], [0, 0, 1]])
        return matrix @ plane @ to_metres


def rotation(about_x: float, about_y: float, about_z: float) -> Matrix:
    """Rotation about z first, then x, then y."""
    cx, sx, cy, sy, cz, sz = (f(a) for a in (about_x, about_y, about_z) for f in (np.cos, np.sin))
    turn_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    turn_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return turn_y @ turn_x @ turn_z


def still(value: Vector) -> Path3D:
    """A path that stays where it is."""
    nothing = np.zeros(3)
    return Path3D(middle=value, velocity=nothing, sway=nothing, period=1.0, phase=0.0, half=0.0)


@dataclass(frozen=True)
class Truth:
    """The ground truth of one clip; frames count from 0."""

    layers: UInt8[np.ndarray, "frames y x"]  # the layer seen at each pixel, 0 is the farthest
    homographies: Float[np.ndarray, "frames layers 3 3"]  # texels to pixels times depth in metres
    labels: UInt8[np.ndarray, " layers"]  # the annotated object that a layer is, 0 for none

    @property
    def frames(self) -> int:
        """How many frames the clip has."""
        return len(self.layers)

    def masks(self) -> UInt8[np.ndarray, "frames y x"]:
        """The annotated object seen at each pixel, 0 for background."""
        return self.labels[self.layers]

    def depth(self, t: int) -> Float32[np.ndarray, "y x"]:
        """Relative inverse depth q = 100 / z with z in metres, of frame t."""
        return (100 * self._texels(t)[2]).reshape(self.layers.shape[1:]).astype(np.float32)

    def flow(self, t: int, other: int) -> Float32[np.ndarray, "2 y x"]:
        """Where the surface seen at each pixel of frame t is in frame `other`, minus where it is; x first, pixels."""
        height, width = self.layers.shape[1:]
        there = _applied(self.homographies[other], self.layers[t].reshape(-1), self._texels(t))
        moved = (there[:2] / there[2]).reshape(2, height, width)
        return (moved - _pixels(height, width)[:2].reshape(2, height, width)).astype(np.float32)

    def visible(self, t: int, other: int) -> Bool[np.ndarray, "y x"]:
        """Whether what is seen at each pixel of frame t is seen in frame `other` too: inside it and not covered."""
        height, width = self.layers.shape[1:]
        x, y = np.rint(self.flow(t, other) + _pixels(height, width)[:2].reshape(2, height, width)).astype(int)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        seen = self.layers[other][np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        return inside & (seen == self.layers[t])

    def save(self, path: Path) -> None:
        """Write as npz: `layers`, `homographies`, `labels`."""
        np.savez_compressed(path, layers=self.layers, homographies=self.homographies, labels=self.labels)

    @staticmethod
    def load(path: Path) -> Truth:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return Truth(layers=file["layers"], homographies=file["homographies"], labels=file["labels"])

    def _texels(self, t: int) -> np.ndarray:
        """Every pixel's point on its layer, times inverse depth: 3 × pixels."""
        height, width = self.layers.shape[1:]
        inverse = np.linalg.inv(self.homographies[t])
        return _applied(inverse, self.layers[t].reshape(-1), _pixels(height, width))


def _pixels(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x.reshape(-1), y.reshape(-1), np.ones(height * width)])


def _applied(matrices: np.ndarray, which: np.ndarray, points: np.ndarray) -> np.ndarray:
    """To each point (a column) the matrix of its own layer."""
    result = np.empty_like(points)
    for layer in np.unique(which):
        chosen = which == layer
        result[:, chosen] = matrices[layer] @ points[:, chosen]
    return result
