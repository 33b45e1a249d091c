"""Examples of dense predictions: frame, truth, what each head made of it; and for directions, by how much it errs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from lila_train.evaluation.dense_scores import IGNORED
from lila_train.evaluation.examples import Stored
from lila_train.report.page import Markup, drawing, figure, heading, joined, paragraph, photo, row
from lila_train.report.wording import percent, title
from stores.pictures import Picture, mask_overlay

FULL_ERROR_DEG = 60.0
RAMP = np.array([[24, 30, 52], [54, 82, 140], [216, 120, 62], [252, 236, 190]], np.float64)  # from 0 to the full error
UNKNOWN = np.array([128, 128, 128], np.uint8)


def section(root: Path, heads: Sequence[str], name: str) -> Markup:
    """All examples that an evaluation kept below `root`."""
    folders = sorted(path for path in (root / "examples").iterdir() if path.is_dir())
    explanation = "Images evenly spread over the validation set, as the protocol cuts them."
    if _stored(folders[0] / "truth.png").ndim == 3:
        explanation += (
            " Directions as colours: x to red, y to green, z to blue. Below, the angle to the truth: dark is 0°, light "
            f"{FULL_ERROR_DEG:.0f}° and more, grey where the truth is not known."
        )
    parts = [heading(f"Examples: {name}", 3), paragraph(explanation, "note")]
    return joined([*parts, *(_example(folder, heads) for folder in folders)])


def _example(folder: Path, heads: Sequence[str]) -> Markup:
    image, truth = _stored(folder / "image.png"), _stored(folder / "truth.png")
    found = {head: _stored(path) for head in heads if (path := folder / f"{head}.png").is_file()}
    columns = min(4, 2 + len(found))
    frame = figure(photo(image, "frame"), "Frame", folder.name)
    if truth.ndim == 2:
        shown = [figure(photo(_overlay(image, truth), "truth"), "Truth")]
        shown += [
            figure(photo(_overlay(image, labels), head), title(head), f"{_agreement(truth, labels)} of pixels right")
            for head, labels in found.items()
        ]
        return row([frame, *shown], columns)
    shown = [figure(drawing(truth, "truth"), "Truth")]
    shown += [figure(drawing(picture, head), title(head)) for head, picture in found.items()]
    known: Bool[np.ndarray, "h w"] = np.asarray(truth.any(axis=2))
    errors = {head: stored_angles_deg(truth, picture) for head, picture in found.items()}
    below = [
        figure(drawing(error_picture(error, known), "error"), f"Error, {title(head)}", _mean_error(error, known))
        for head, error in errors.items()
    ]
    return joined([row([frame, *shown], columns), row([Markup("<div></div>")] * 2 + below, columns)])


def stored_angles_deg(truth: UInt8[np.ndarray, "h w 3"], found: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Between directions stored as colours; 8 bits hold them to about half a degree."""
    one, other = (picture.astype(np.float64) / 127.5 - 1 for picture in (truth, found))
    lengths = np.linalg.norm(one, axis=2) * np.linalg.norm(other, axis=2)
    return np.degrees(np.arccos(np.clip((one * other).sum(axis=2) / np.maximum(lengths, 1e-9), -1, 1)))


def error_picture(error_deg: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> Picture:
    """Dark at 0°, light at the full error."""
    places = np.clip(error_deg / FULL_ERROR_DEG, 0, 1) * (len(RAMP) - 1)
    channels = [np.interp(places, np.arange(len(RAMP)), RAMP[:, channel]) for channel in range(3)]
    picture = np.stack(channels, axis=2).astype(np.uint8)
    picture[~known] = UNKNOWN
    return picture


def _overlay(image: Picture, labels: UInt8[np.ndarray, "h w"]) -> Picture:
    """Classes from 1, so that 0, which is not painted, stands for the ignored."""
    return mask_overlay(image, labels + np.uint8(1))


def _agreement(truth: UInt8[np.ndarray, "h w"], labels: UInt8[np.ndarray, "h w"]) -> str:
    known = truth != IGNORED
    return percent(float((truth == labels)[known].mean()) if known.any() else None) + " %"


def _mean_error(error_deg: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> str:
    return f"mean {error_deg[known].mean():.1f}° here" if known.any() else "no truth here"


def _stored(path: Path) -> Stored:
    with Image.open(path) as picture:
        return np.asarray(picture)
