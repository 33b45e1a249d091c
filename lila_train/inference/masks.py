"""Masks of a video's frames, read from image files: which pixels belong to which object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.lib.stride_tricks import sliding_window_view
from PIL import ImageOps

from lila_cues.images import decode
from lila_train.model.resize import Labels, Size, size_of
from stores.errors import LilaError


@dataclass(frozen=True)
class MarkedObjects:
    """Labels 0 (background), 1, 2, … of a frame, and the value in the mask file of each."""

    labels: Labels
    values: UInt8[np.ndarray, " n"]
    indexed: bool = True  # values are those of an indexed PNG, not numbers given here


@dataclass(frozen=True)
class Masks:
    """Labels 0 (background), 1, 2, … of some frames, the same object under the same label, and the value of each."""

    frames: dict[int, Labels]
    values: UInt8[np.ndarray, " n"]

    def first(self) -> dict[int, int]:
        """Return the first marked frame of each object."""
        labels = {frame: np.unique(mask) for frame, mask in sorted(self.frames.items(), reverse=True)}
        return {int(label): frame for frame, found in labels.items() for label in found if label}


def read_masks(named: Sequence[str], size: Size) -> Masks:
    """Read masks given as FILE, of frame 0, or FRAME:FILE, for frames of this height and width.

    Values of indexed PNGs name objects: the same value in masks of several frames is the same object. The objects of
    other masks are numbered on. Where masks of one frame overlap, the last one counts.
    """
    read: list[tuple[int, Path, MarkedObjects]] = []
    for name in named:
        match = None if Path(name).exists() else re.fullmatch(r"(\d+):(.+)", name)
        frame, path = (int(match[1]), Path(match[2])) if match else (0, Path(name))
        read.append((frame, path, read_mask(path)))
        require_size(size_of(read[-1][2].labels), size, path)
    given = {int(value) for *_, marked in read if marked.indexed for value in marked.values[1:]}
    free = (value for value in range(1, 256) if value not in given)
    frames: dict[int, np.ndarray] = {}
    owners: dict[tuple[int, int], Path] = {}
    for frame, path, marked in read:
        values = [int(value) if marked.indexed else next(free, 255) for value in marked.values[1:]]
        merged = frames.setdefault(frame, np.zeros(size, np.uint8))
        for label, value in enumerate(values, start=1):
            if value == 255:
                raise LilaError(f"expected at most 254 objects, found more with those of {path}")
            if other := owners.get((frame, value)):
                raise LilaError(
                    f"object {value} of frame {frame} is in {other} and in {path}; give each object an index of its own"
                )
            owners[frame, value] = path
            merged[marked.labels == label] = value
    for (frame, value), path in owners.items():
        if not (frames[frame] == value).any():
            raise LilaError(f"object {value} of {path} is covered by the masks after it; pass it last")
    all_values = np.unique([0, *(value for _, value in owners)]).astype(np.uint8)
    labels = {frame: np.searchsorted(all_values, merged).astype(np.uint8) for frame, merged in frames.items()}
    return Masks(labels, all_values)


def read_mask(path: Path) -> MarkedObjects:
    """Read the objects of an indexed PNG by index; of other images by value or color, black is background.

    Transparent pixels are background, and index 255 is void, as in evaluation. LilaError for a mask whose values are no
    labels: negative ones, those of a JPEG, or of soft edges, each of which has no square of 3×3 pixels anywhere.
    """
    stored = decode(path)
    image, is_jpeg = ImageOps.exif_transpose(stored), stored.format == "JPEG"
    alpha = np.asarray(image.convert("RGBA"))[..., 3] if image.has_transparency_data else None
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        image = image.convert({"L": "L", "P": "P"}.get(image.mode[0], "RGB"))
    array = np.asarray(image if image.mode[0] in "PL1IF" and image.mode != "LAB" else image.convert("RGB"))
    if not (np.isfinite(array) & (array >= 0)).all():
        wrong = "a negative value" if np.isfinite(array).all() else "NaN or infinity"
        raise LilaError(f"expected labels in {path}, found {wrong}; save whole numbers as an indexed PNG")
    flat = array.reshape(-1, 3) if array.ndim == 3 else array.reshape(-1, 1)
    void = np.zeros(len(flat), bool) if alpha is None else alpha.reshape(-1) < 128
    if image.mode == "P":
        void |= flat[:, 0] == 255
    flat = np.where(void[:, None], 0, flat)
    found, inverse = np.unique(np.vstack([np.zeros_like(flat[:1]), flat]), axis=0, return_inverse=True)
    labels = inverse.reshape(-1)[1:].reshape(array.shape[:2])
    squares = sliding_window_view(labels, (3, 3)) if min(labels.shape) >= 3 else labels[:0, :0, None, None]
    solid = len(np.setdiff1d(squares[(squares == squares[..., :1, :1]).all((-2, -1)), 0, 0], [0]))
    slivers = len(found) - 1 - solid
    if is_jpeg or slivers > max(solid, 11 if image.mode == "P" else 1):
        raise LilaError(
            f"expected a value or color per object in {path}, found {len(found) - 1}, {slivers} of them slivers, as a "
            "JPEG or soft edges make them; save the mask as an indexed PNG, without smoothing"
        )
    if not 1 < len(found) <= 255:
        raise LilaError(f"expected 1 to 254 objects on a background of 0 in {path}, found {len(found) - 1}")
    values = found[:, 0].astype(np.uint8) if image.mode == "P" else np.arange(len(found), dtype=np.uint8)
    return MarkedObjects(labels.astype(np.uint8), values, image.mode == "P")


def require_size(mask: Size, frame: Size, path: Path | None = None) -> None:
    """Raise LilaError for a mask of another height and width than the frames'."""
    if mask != frame:
        turned = "the frames are turned by their metadata: make it for the video as it is shown, upright"
        raise LilaError(
            f"expected a mask of the frames' size, {frame[0]}×{frame[1]}, found one of {mask[0]}×{mask[1]}"
            f"{f' in {path}' if path else ''}; "
            + (turned if mask == frame[::-1] else "make it for a frame, at its size")
        )
