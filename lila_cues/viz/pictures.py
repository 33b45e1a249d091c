"""Cues and features as pictures: arrays in, `uint8` RGB of the same height and width out.

Missing values (NaN) are gray, so that a hole never looks like data.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

from stores.atomic import atomic_path

Picture = UInt8[np.ndarray, "h w 3"]  # RGB, 0 to 255
MISSING = np.array([128, 128, 128], np.uint8)
EXCLUDED = np.array([214, 96, 60], np.uint8)  # flow that is left out of the loss
CONFIDENCE_SCALE = 0.05  # half-image units
MIN_CONFIDENCE = 0.5  # flow is valid above it

# The color wheel of Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011: six hues at
# unequal steps, because the eye distinguishes more reds and blues than greens.
_WHEEL_STEPS = np.array([0, 15, 21, 25, 36, 49, 55]) / 55
_WHEEL_HUES = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], float)

# From far to near: dark blue over violet and orange to a light yellow, lightness rising all the way.
DEPTH_COLORS = np.array(
    [[8, 9, 38], [48, 22, 98], [104, 32, 118], [158, 47, 108], [208, 72, 82], [242, 112, 48], [252, 172, 58],
     [250, 242, 176]]
)  # fmt: skip


def flow_picture(flow_px: Float[np.ndarray, "2 h w"], max_px: float | None = None) -> Picture:
    """Draw direction as hue (right is red, down yellow) and length as saturation, white for no motion.

    `max_px` is the length at full saturation, beyond which the color darkens; default: `flow_scale`.
    """
    length = np.hypot(flow_px[0], flow_px[1])
    known = np.isfinite(length)
    max_px = flow_scale(flow_px) if max_px is None else max_px
    turn = np.where(known, np.arctan2(flow_px[1], flow_px[0]) / (2 * np.pi) % 1, 0)
    strength = np.where(known, length, 0)[..., None] / max_px
    hue = np.stack([np.interp(turn, _WHEEL_STEPS, channel) for channel in _WHEEL_HUES.T], axis=-1)
    inside = 1 - np.minimum(strength, 1) * (1 - hue)
    return _as_bytes(np.where(strength > 1 + 1e-6, 0.75 * inside, inside), known)


def flow_scale(*flows: Float[np.ndarray, "2 h w"]) -> float:
    """Return the 98th percentile of the lengths in all flows in pixels, above 0 for a still scene."""
    lengths = np.concatenate([np.hypot(*flow).ravel() for flow in flows])
    known = lengths[np.isfinite(lengths)]
    return max(float(np.percentile(known, 98)), 1e-3) if len(known) else 1.0


def flow_wheel(size: int = 96) -> UInt8[np.ndarray, "size size 3"]:
    """Draw the legend of `flow_picture`: the color at a point is that of the motion from the center to the point."""
    axis = np.linspace(-1, 1, size)
    x, y = np.meshgrid(axis, axis)
    picture = flow_picture(np.stack([x, y]), max_px=1.0)
    picture[np.hypot(x, y) > 1] = 255
    return picture


def confidence(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Return exp(−e / 0.05) per pixel of the first frame, e = ‖f + b∘f‖ in half-image units (docs/method.md, "Cues").

    Both flows are 2×y×x in px, channel 0 is x. Sampling is bilinear and clamped to the border; NaN where either flow
    is missing.
    """
    height, width = forward.shape[1:]
    places = np.mgrid[:height, :width] + forward[::-1]
    known = np.isfinite(places).all(axis=0)
    places = np.where(known, places, 0)
    sampled = [map_coordinates(channel, places, order=1, mode="nearest") for channel in backward]
    returned = np.where(known, sampled, np.nan)
    half = np.array([2 / width, 2 / height])[:, None, None]
    return np.asarray(np.exp(-np.linalg.norm((forward + returned) * half, axis=0) / CONFIDENCE_SCALE))


def confidence_picture(values: Float[np.ndarray, "h w"]) -> Picture:
    """Draw confidence as gray levels, orange where flow is missing or too uncertain to be used."""
    picture = np.repeat(np.rint(255 * np.nan_to_num(values)).astype(np.uint8)[..., None], 3, axis=2)
    picture[~(values > MIN_CONFIDENCE)] = EXCLUDED
    return picture


def depth_picture(inverse_depth: Float[np.ndarray, "h w"]) -> Picture:
    """Draw relative inverse depth q, near light and far dark, linear in log(1 + q) from the 1st to 99th percentile."""
    known = np.isfinite(inverse_depth)
    scale = np.log1p(np.maximum(np.where(known, inverse_depth, 0), 0))
    low, high = np.percentile(scale[known], (1, 99)) if known.any() else (0.0, 1.0)
    position = np.clip((scale - low) / max(high - low, 1e-6), 0, 1)
    return ramp_picture(position, DEPTH_COLORS, known)


def ramp_picture(position: Float[np.ndarray, "h w"], colors: np.ndarray, known: Bool[np.ndarray, "h w"]) -> Picture:
    """Draw 0 to 1 as a ramp through n×3 `colors`, 0 to 255; gray where the value is not known."""
    nodes, position = np.linspace(0, 1, len(colors)), np.where(known, position, 0)
    color = np.stack([np.interp(position, nodes, channel) for channel in colors.T], axis=-1)
    return _as_bytes(color / 255, known)


def scaled_picture(maps: Float[np.ndarray, "c h w"], limits: tuple[float, float]) -> Picture:
    """Draw one channel as gray or three as RGB, the first limit at 0, the second at 255; others by `pca_picture`."""
    if len(maps) not in (1, 3):
        return pca_picture(maps)
    known = np.isfinite(maps).all(axis=0)
    share = (np.where(known, maps, 0) - limits[0]) / max(limits[1] - limits[0], 1e-6)
    return _as_bytes(np.moveaxis(np.broadcast_to(share, (3, *share.shape[1:])), 0, -1), known)


class Basis(NamedTuple):
    """A linear map of features to red, green and blue: `features @ weights + offset`, in [0, 1] where it is drawn."""

    weights: Float[np.ndarray, "c 3"]
    offset: Float[np.ndarray, " 3"]


def pca_basis(features: Float[np.ndarray, "n c"]) -> Basis:
    """Return the first three principal components, with ranges that exclude one percent at either end.

    The largest entry of an axis is positive, so that equal features give equal colors.
    """
    channels = features.shape[1]
    rows = features[np.isfinite(features).all(axis=1)].astype(np.float64)
    mean = rows.mean(axis=0) if len(rows) else np.zeros(channels)
    centered = rows - mean
    _, vectors = np.linalg.eigh(centered.T @ centered)
    axes = np.zeros((channels, 3))
    axes[:, : min(3, channels)] = vectors[:, ::-1][:, :3]
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(3)] < 0, -1.0, 1.0)
    shown = centered @ axes if len(rows) else np.zeros((1, 3))
    low, high = np.percentile(shown, (1, 99), axis=0)
    scale = 1 / np.maximum(high - low, 1e-9)
    return Basis(axes * scale, -(mean @ axes + low) * scale)


def pca_picture(features: Float[np.ndarray, "c h w"], basis: Basis | None = None) -> Picture:
    """Draw the first three principal components; give one `basis` to maps that are to be compared."""
    rows = features.reshape(len(features), -1).T
    basis = pca_basis(rows) if basis is None else basis
    color = (rows @ basis.weights + basis.offset).reshape(*features.shape[1:], 3)
    known = np.isfinite(color).all(axis=-1)
    return _as_bytes(np.where(known[..., None], color, 0), known)


def label_palette() -> UInt8[np.ndarray, "256 3"]:
    """Return the palette of PASCAL VOC and DAVIS: a label's bits set red, green, blue in turn, top bit first."""
    labels = np.arange(256)
    channels = np.zeros((256, 3), int)
    for k in range(8):
        channels[:, k % 3] |= (labels >> k & 1) << (7 - k // 3)
    return channels.astype(np.uint8)


def mask_overlay(rgb: Picture, labels: Integer[np.ndarray, "h w"]) -> Picture:
    """Draw each label's color over the image at half opacity, with a white outline; label 0 stays as it is."""
    mixed = 0.5 * rgb + 0.5 * label_palette()[labels.astype(np.uint8)]
    painted = np.where((labels > 0)[..., None], mixed, rgb)
    padded = np.pad(labels, 1, mode="edge")
    neighbors = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    edge = np.any([labels != neighbor for neighbor in neighbors], axis=0)
    painted[edge & (labels > 0)] = 255
    return np.rint(painted).astype(np.uint8)


def trails_overlay(rgb: Picture, trails: Sequence[Sequence[tuple[float, float]]]) -> Picture:
    """Draw paths of points (x, y) in pixels over the image, each in a color of its own, with a dot at the end."""
    image = Image.fromarray(rgb)
    draw, radius = ImageDraw.Draw(image), max(2.5, min(rgb.shape[:2]) / 120)
    for number, trail in enumerate(trails):
        color = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(number * 0.618 % 1, 0.85, 1))  # golden ratio
        if len(trail) > 1:
            draw.line([*trail], fill=color, width=max(1, round(radius / 2)))
        for x, y in list(trail)[-1:]:
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, fill=color, outline=(255, 255, 255))
    return np.asarray(image)


def write_png(path: Path, picture: Picture | UInt8[np.ndarray, "h w"]) -> None:
    """Write an RGB or a gray PNG file, 8 bits per channel."""
    with atomic_path(path, sync=False) as temporary:
        Image.fromarray(picture).save(temporary, "png")


def write_label_png(path: Path, labels: UInt8[np.ndarray, "h w"]) -> None:
    """Write labels as an indexed PNG file with `label_palette`, as DAVIS stores its annotations."""
    indexed = Image.fromarray(labels).convert("L")
    indexed.putpalette(label_palette().tobytes())
    with atomic_path(path, sync=False) as temporary:
        indexed.save(temporary, "png")


def _as_bytes(color: np.ndarray, known: np.ndarray) -> Picture:
    picture = np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8)
    picture[~known] = MISSING
    return picture
