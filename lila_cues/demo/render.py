"""From a scene to pixels: layers painted from far to near, with edges antialiased over one pixel."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from lila_cues.demo.geometry import Truth
from lila_cues.demo.scenes import Layer, Scene


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
    ground = scene.layers[0].texture
    canvas = cv2.warpPerspective(ground, views[0], size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    canvas = canvas.astype(np.float32)
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
    outside = -float(texels)
    distance = cv2.warpPerspective(
        layer.distance, shifted, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )
    color = cv2.warpPerspective(layer.texture, shifted, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))  # of the projected texture
    pixels_per_texel = float(np.sqrt(area) / texels)
    cover = np.clip(distance * pixels_per_texel + 0.5, 0, 1)[..., None]
    region = canvas[top:bottom, left:right]
    region += cover * (color - region)
    visible[top:bottom, left:right][distance > 0] = index
