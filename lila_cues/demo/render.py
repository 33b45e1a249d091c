"""From a scene to pixels: layers painted from far to near, with edges smoothed over one pixel."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from lila_cues.demo.geometry import Truth
from lila_cues.demo.scenes import Layer, Scene


def paint(scene: Scene, t: int) -> tuple[UInt8[np.ndarray, "y x 3"], UInt8[np.ndarray, "y x"]]:
    """Frame t as RGB, and the index of the layer seen at each pixel."""
    size = (scene.camera.width, scene.camera.height)
    ground = scene.layers[0]
    view = ground.motion.homography(scene.camera, t)
    canvas = cv2.warpPerspective(ground.texture, view, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    canvas = canvas.astype(np.float32)
    seen = np.zeros(canvas.shape[:2], np.uint8)
    for index, layer in enumerate(scene.layers[1:], 1):
        _paint_layer(canvas, seen, index, layer, layer.motion.homography(scene.camera, t))
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8), seen


def _paint_layer(canvas: np.ndarray, seen: np.ndarray, index: int, layer: Layer, view: np.ndarray) -> None:
    box = _box(view, layer.motion.texels, canvas.shape[:2])
    if box is None or layer.distance is None:
        return
    left, top, right, bottom = box
    shifted = np.array([[1.0, 0, -left], [0, 1, -top], [0, 0, 1]]) @ view
    size = (right - left, bottom - top)
    outside = -float(layer.motion.texels)
    distance = cv2.warpPerspective(
        layer.distance, shifted, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )
    color = cv2.warpPerspective(layer.texture, shifted, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover = np.clip(distance * _pixels_per_texel(view, layer.motion.texels) + 0.5, 0, 1)[..., None]
    region = canvas[top:bottom, left:right]
    region += cover * (color - region)
    seen[top:bottom, left:right][distance > 0] = index


def _corners(view: np.ndarray, texels: int) -> np.ndarray:
    corners = (
        np.array([[0, 0, 1], [texels, 0, 1], [texels, texels, 1], [0, texels, 1]]).T
        - 0.5 * np.eye(3)[:, :2].sum(1)[:, None]
    )
    projected = view @ corners
    return projected[:2] / projected[2]


def _box(view: np.ndarray, texels: int, shape: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of the pixels that the texture can cover; None where it is outside the picture."""
    x, y = _corners(view, texels)
    left, right = max(int(np.floor(x.min())), 0), min(int(np.ceil(x.max())) + 1, shape[1])
    top, bottom = max(int(np.floor(y.min())), 0), min(int(np.ceil(y.max())) + 1, shape[0])
    return None if left >= right or top >= bottom else (left, top, right, bottom)


def _pixels_per_texel(view: np.ndarray, texels: int) -> float:
    """The scale of the projection, from the area that the texture's square takes."""
    x, y = _corners(view, texels)
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    return float(np.sqrt(area) / texels)


def film(scene: Scene) -> tuple[UInt8[np.ndarray, "frames y x 3"], Truth]:
    """All frames of the scene, and what is known of them."""
    painted = [paint(scene, t) for t in range(scene.frames)]
    views = [[layer.motion.homography(scene.camera, t) for layer in scene.layers] for t in range(scene.frames)]
    truth = Truth(
        layers=np.stack([seen for _, seen in painted]),
        homographies=np.array(views),
        labels=np.array(scene.labels, np.uint8),
    )
    return np.stack([rgb for rgb, _ in painted]), truth
