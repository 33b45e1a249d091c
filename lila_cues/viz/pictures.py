"""How well forward and backward flow agree: docs/method.md, "Cues", for grids of any shape.

Cues and features as pictures: arrays in, `uint8` RGB of the same height and width out.

Where a value is missing (NaN) the pictures are grey, so that a hole never looks like data.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

SCALE = 0.05  # half-image units
VALID = 0.5  # flow is valid where the confidence is above this


def confidence(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """exp(−e / 0.05) at each pixel of t, e = ‖f + b∘f‖ in half-image units; NaN where either flow is missing.

    Both are 2 y x in px, channel 0 is x. Sampling is bilinear and stays within the border.
    """
    height, width = forward.shape[1:]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    returned = _sample(backward, x + forward[0], y + forward[1])
    half = np.array([2 / width, 2 / height], np.float32)[:, None, None]
    error = np.linalg.norm((forward + returned) * half, axis=0)
    agreement: np.ndarray = np.exp(-error / SCALE)
    return agreement


def _sample(maps: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = maps.shape[1:]
    known = np.isfinite(x) & np.isfinite(y)
    x = np.clip(np.where(known, x, 0), 0, width - 1)
    y = np.clip(np.where(known, y, 0), 0, height - 1)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = x - left, y - top
    upper = maps[:, top, left] * (1 - across) + maps[:, top, right] * across
    lower = maps[:, bottom, left] * (1 - across) + maps[:, bottom, right] * across
    return np.where(known, upper * (1 - down) + lower * down, np.nan)


Picture = UInt8[np.ndarray, "h w 3"]
"""RGB, 0 to 255."""
MISSING = np.array([128, 128, 128], np.uint8)

# The colour wheel of Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011: six hues at
# unequal steps, because the eye tells apart more reds and blues than greens.
_WHEEL_STEPS = np.array([0, 15, 21, 25, 36, 49, 55]) / 55
_WHEEL_HUES = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], float)

# From far to near: dark blue over violet and orange to a light yellow, lightness rising all the way.
_DEPTH_COLOURS = np.array(
    [
        [8, 9, 38],
        [48, 22, 98],
        [104, 32, 118],
        [158, 47, 108],
        [208, 72, 82],
        [242, 112, 48],
        [252, 172, 58],
        [250, 242, 176],
    ]
)


# --- flow ---------------------------------------------------------------------------------------------------------


def flow_picture(flow_px: Float[np.ndarray, "2 h w"], max_px: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Direction as hue (right is red, down yellow), length as saturation: still is white, `max_px` the full colour.

    `max_px` is the 98th percentile of the lengths where it is not given; beyond it the colour darkens.
    """
    length = np.hypot(flow_px[0], flow_px[1])
    known = np.isfinite(length)
    full = _robust_maximum(length[known]) if max_px is None else max_px
    turn = np.arctan2(flow_px[1], flow_px[0]) / (2 * np.pi) % 1
    return _as_bytes(_wheel_colour(np.where(known, turn, 0), np.where(known, length, 0) / full), known)


def flow_wheel(size: int = 96) -> UInt8[np.ndarray, "size size 3"]:
    """The legend of `flow_picture`: the colour at a point is that of the motion from the centre to the point."""
    axis = np.linspace(-1, 1, size)
    x, y = np.meshgrid(axis, axis)
    picture = flow_picture(np.stack([x, y]), max_px=1.0)
    picture[np.hypot(x, y) > 1] = 255
    return picture


def _robust_maximum(lengths: np.ndarray) -> float:
    return max(float(np.percentile(lengths, 98)), 1e-3) if lengths.size else 1.0


def _wheel_colour(turn: np.ndarray, strength: np.ndarray) -> np.ndarray:
    hue = np.stack([np.interp(turn, _WHEEL_STEPS, _WHEEL_HUES[:, i]) for i in range(3)], axis=-1)
    inside = 1 - np.minimum(strength, 1)[..., None] * (1 - hue)
    return np.where(strength[..., None] > 1 + 1e-6, 0.75 * inside, inside)


# --- depth --------------------------------------------------------------------------------------------------------


def depth_picture(
    q: Float[np.ndarray, "h w"], near: float | None = None, far: float | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Relative inverse depth q: near is light, far is dark, on a scale linear in log(1 + q).

    `near` and `far` are the values of q at the two ends; the 99th and 1st percentile where they are not given.
    """
    known = np.isfinite(q)
    scale = np.log1p(np.maximum(np.where(known, q, 0), 0))
    low, high = np.percentile(scale[known], (1, 99)) if known.any() else (0.0, 1.0)
    low = low if far is None else np.log1p(far)
    high = high if near is None else np.log1p(near)
    position = np.clip((scale - low) / max(high - low, 1e-6), 0, 1)
    anchors = np.linspace(0, 1, len(_DEPTH_COLOURS))
    color = np.stack([np.interp(position, anchors, _DEPTH_COLOURS[:, i]) for i in range(3)], axis=-1)
    return _as_bytes(color / 255, known)


# --- features -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Basis:
    """The three directions in feature space that are shown as red, green and blue, and the range shown of each."""

    mean: Float[np.ndarray, " c"]
    axes: Float[np.ndarray, "c 3"]
    low: Float[np.ndarray, " 3"]
    high: Float[np.ndarray, " 3"]


def pca_basis(features: Float[np.ndarray, "n c"], cut: float = 1.0) -> Basis:
    """The first three principal components; the range leaves out `cut` percent of the features at either end.

    The sign of an axis is fixed by its largest entry being positive, so that equal features give equal colours.
    """
    rows = features[np.isfinite(features).all(axis=1)].astype(np.float64)
    mean = rows.mean(axis=0) if len(rows) else np.zeros(features.shape[1])
    axes = _principal_axes(rows - mean)
    shown = (rows - mean) @ axes if len(rows) else np.zeros((1, 3))
    low, high = np.percentile(shown, (cut, 100 - cut), axis=0)
    return Basis(mean=mean, axes=axes, low=low, high=high)


def _principal_axes(centred: np.ndarray) -> np.ndarray:
    width = centred.shape[1]
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = np.zeros((width, 3))
    axes[:, : min(3, width)] = vectors[:, ::-1][:, :3]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(3)]
    return axes * np.where(largest < 0, -1.0, 1.0)


def pca_picture(features: Float[np.ndarray, "c h w"], basis: Basis | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """A feature map's first three principal components; give one `basis` to maps that are to be compared."""
    channels, height, width = features.shape
    rows = features.reshape(channels, -1).T
    basis = pca_basis(rows) if basis is None else basis
    shown = (rows - basis.mean) @ basis.axes
    scaled = ((shown - basis.low) / np.maximum(basis.high - basis.low, 1e-9)).reshape(height, width, 3)
    known = np.isfinite(scaled).all(axis=-1)
    return _as_bytes(np.where(known[..., None], scaled, 0), known)


# --- any map -------------------------------------------------------------------------------------------------------


def scaled_picture(maps: Float[np.ndarray, "c h w"], limits: tuple[float, float]) -> UInt8[np.ndarray, "h w 3"]:
    """One channel as grey, three as red, green and blue, on a scale from the first limit (0) to the second (255)."""
    if len(maps) not in (1, 3):
        return pca_picture(maps)
    known = np.isfinite(maps).all(axis=0)
    share = (np.where(known, maps, 0) - limits[0]) / max(limits[1] - limits[0], 1e-6)
    return _as_bytes(np.moveaxis(np.broadcast_to(share, (3, *share.shape[1:])), 0, -1), known)


# --- labels -------------------------------------------------------------------------------------------------------


def label_palette() -> UInt8[np.ndarray, "256 3"]:
    """The palette of PASCAL VOC and DAVIS: bit k of a label sets, from the top bit down, red, green, blue in turn."""
    labels = np.arange(256)
    channels = np.zeros((256, 3), int)
    for k in range(8):
        channels[:, k % 3] |= (labels >> k & 1) << (7 - k // 3)
    return channels.astype(np.uint8)


def mask_overlay(
    rgb: UInt8[np.ndarray, "h w 3"], labels: Integer[np.ndarray, "h w"], opacity: float = 0.5
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with each label's colour laid over it and a white line around it; label 0 stays as it is."""
    color = label_palette()[labels.astype(np.uint8)]
    mixed = (1 - opacity) * rgb + opacity * color
    painted = np.where((labels > 0)[..., None], mixed, rgb)
    painted[_label_edges(labels)] = 255
    return np.rint(painted).astype(np.uint8)


def _label_edges(labels: np.ndarray) -> np.ndarray:
    """The pixels of a label that have another label to the right or below, or that are such a neighbour."""
    edge = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge & (labels > 0)


# --- files --------------------------------------------------------------------------------------------------------


def png_bytes(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The image as a PNG file, 8 bits per channel."""
    return _png(Image.fromarray(rgb))


def label_png_bytes(labels: UInt8[np.ndarray, "h w"]) -> bytes:
    """Labels as an indexed PNG file: the pixel value is the label, its colour comes from `label_palette`."""
    indexed = Image.fromarray(labels).convert("L")
    indexed.putpalette(label_palette().tobytes())
    return _png(indexed)


def write_png(path: Path, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write the image as a PNG file."""
    path.write_bytes(png_bytes(rgb))


def write_label_png(path: Path, labels: UInt8[np.ndarray, "h w"]) -> None:
    """Write labels as an indexed PNG file, as DAVIS keeps its annotations."""
    path.write_bytes(label_png_bytes(labels))


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


def _as_bytes(color: np.ndarray, known: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    picture = np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8)
    picture[~known] = MISSING
    return picture
