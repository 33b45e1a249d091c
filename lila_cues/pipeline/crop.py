"""The shared base crop: a centred part of the frame that has the shape of the base, and every map cut the same way."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Box:
    """A part of a frame in fractions of its height and width, so that it cuts a map of any resolution."""

    top: float
    left: float
    bottom: float
    right: float


def base_box(frame: tuple[int, int], base: tuple[int, int]) -> Box:
    """The largest centred box of a frame (y, x) with the aspect of the base (y, x), on whole pixels."""
    scale = min(frame[0] / base[0], frame[1] / base[1])
    height, width = (max(1, min(side, round(part * scale))) for side, part in zip(frame, base, strict=True))
    top, left = (frame[0] - height) // 2, (frame[1] - width) // 2
    return Box(top / frame[0], left / frame[1], (top + height) / frame[0], (left + width) / frame[1])


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


def cut(image: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The box of an image (y x …), resized to `size` (y, x): by area where it shrinks, bilinearly where it grows."""
    top, bottom = box.top * image.shape[0], box.bottom * image.shape[0]
    left, right = box.left * image.shape[1], box.right * image.shape[1]
    if bottom - top >= size[0] and right - left >= size[1]:
        part = image[round(top) : round(bottom), round(left) : round(right)]
        return cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA)
    rows = _centres(top, bottom, size[0])[:, None].repeat(size[1], axis=1)
    columns = _centres(left, right, size[1])[None].repeat(size[0], axis=0)
    return cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _centres(start: float, end: float, count: int) -> np.ndarray:
    """Centres of `count` equal cells between two edges, as pixel positions."""
    return ((np.arange(count) + 0.5) * (end - start) / count + start - 0.5).astype(np.float32)
