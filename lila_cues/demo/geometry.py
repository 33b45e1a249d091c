"""Planes under a moving camera, and the ground truth that follows from them in closed form.

Every surface of a scene is a plane, so all its motion is a homography per frame. World and camera axes: x right, y
down, z away from the viewer, in meters. Pixel coordinates count from the center of the top left pixel. Angles are in
radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

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
        """Return the position at frame t, in the unit of `middle`."""
        swing = np.sin(2 * np.pi * t / self.period + self.phase)
        return self.middle + (t - self.half) * self.velocity + swing * self.sway


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that moves, rotates and zooms."""

    height: int
    width: int
    position: Path3D  # meters
    rotation: Path3D  # about x (tilt), y (pan), z (roll), radians
    zoom: Path3D  # x: focal length in image widths; y and z unused

    def projection(self, t: Frame) -> tuple[Matrix, Vector]:
        """Return M and c so that M (X − c) is the pixel of world point X times its depth in meters."""
        focal = self.zoom.at(t)[0] * self.width
        intrinsic = np.array([[focal, 0, (self.width - 1) / 2], [0, focal, (self.height - 1) / 2], [0, 0, 1]])
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
        """Write as npz: `layers`, `homographies`, `labels`."""
        np.savez_compressed(path, **vars(self))

    @staticmethod
    def load(path: Path) -> Truth:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return Truth(**file)

    def _texels(self, t: int) -> np.ndarray:
        """Each pixel's point on its layer, times inverse depth: 3 × pixels."""
        y, x = np.indices(self.layers.shape[1:], float).reshape(2, -1)
        pixels = np.stack([x, y, np.ones_like(x)])
        return np.einsum("nij,jn->in", np.linalg.inv(self.homographies[t])[self.layers[t].ravel()], pixels)
