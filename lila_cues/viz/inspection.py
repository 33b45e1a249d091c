"""What `lila-cues inspect` shows of a store: its arrays, statistics from sums that add across clips, and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lila_cues.viz import pictures
from lila_cues.viz.html import Figure, Row
from lila_cues.viz.pictures import MIN_CONFIDENCE, confidence
from stores.ledger import COMPLETE, STATUS_NAMES
from stores.plan import readable
from stores.store import CueStore

TILE = 224  # height of a picture in pixels
_GAP, _LINE = 6, 22

Table = tuple[list[str], list[list[str]]]  # headings and rows


@dataclass(frozen=True)
class Inspection:
    """A store's path, clips by status in a line, arrays with sizes, statistics over some clips, pictures of pairs."""

    path: str
    summary: str
    arrays: Table
    numbers: Table
    rows: Sequence[Row]


def inspect(store: CueStore, clips: Sequence[int], rows: Sequence[Row]) -> Inspection:
    """Compute the tables and put them beside pictures that are already drawn.

    Stored sizes are those of the tasks of `clips`; values of every array, scales left out, are those of `clips`.
    """
    stored = stored_bytes(store, sorted({clip // store.spec.shard_clips for clip in clips}))
    arrays, numbers = [], []
    for name, array in store.arrays.items():
        sizes = " ".join(f"{dimension} {size}" for dimension, size in zip(array.dimensions, array.shape, strict=True))
        raw, compressed = readable(array.clip_bytes), readable(round(stored[name]))
        ratio = f"{stored[name] / array.clip_bytes:.0%}" if stored[name] else "–"
        arrays.append([name, sizes, array.dtype.name, raw, compressed, ratio])
        if not name.endswith("_scale"):
            *values, missing = statistics(store.read(name, clip) for clip in clips)
            numbers.append([name, *(f"{value:.4g}" for value in values), f"{missing:.2%}"])
    return Inspection(
        path=store.path,
        summary=summary(store),
        arrays=(["array", "per clip", "stored as", "raw", "stored", "compressed"], arrays),
        numbers=(["cue", "min", "mean", "max", "std", "missing"], numbers),
        rows=rows,
    )


def sheet(rows: Sequence[Row]) -> np.ndarray:
    """Draw all rows one below the other with titles and captions: uint8 y×x×3."""
    width = max(sum(figure.picture.shape[1] + _GAP for figure in row.figures if figure) + _GAP for row in rows)
    height = len(rows) * (TILE + 2 * _LINE + _GAP) + _GAP
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for number, row in enumerate(rows):
        top = _GAP + number * (TILE + 2 * _LINE + _GAP)
        draw.text((_GAP, top), row.title, fill="black", font=ImageFont.load_default(15))
        left = _GAP
        for figure in filter(None, row.figures):
            image.paste(Image.fromarray(figure.picture), (left, top + _LINE))
            draw.text((left, top + _LINE + TILE + 2), figure.name, fill=(90, 90, 90), font=ImageFont.load_default(13))
            left += figure.picture.shape[1] + _GAP
    return np.asarray(image)


def row(store: CueStore, clip: int, pair: int) -> Row:
    """Draw one pair: both frames, depth, flow, its confidence, features before and after PAMR, additional cues."""
    cues, times = store.pair(clip, pair), store.read("frame_time", clip)
    depth, flow, features = cues["depth"], cues["flow_forward"], cues["features"]
    agreement = confidence(flow, cues["flow_backward"])
    basis = pictures.pca_basis(np.moveaxis(features, 1, -1).reshape(-1, features.shape[1]))
    depth_range = f"{np.nanmin(depth[0]):.3g} to {np.nanmax(depth[0]):.3g}"
    tiles = [
        ("RGB, first", cues["rgb"][0]),
        ("RGB, second", cues["rgb"][1]),
        (f"depth, {depth_range}", pictures.depth_picture(depth[0])),
        (f"flow, up to {np.nanpercentile(np.hypot(*flow), 98):.1f} px", pictures.flow_picture(flow)),
        (f"confidence, {100 * (agreement > MIN_CONFIDENCE).mean():.0f} % valid", _confidence_picture(agreement)),
        ("features of the encoder", pictures.pca_picture(cues["features_raw"][0], basis)),
        ("features refined, first", pictures.pca_picture(features[0], basis)),
        ("features refined, second", pictures.pca_picture(features[1], basis)),
    ]
    for extra in store.spec.extra:
        tiles.append((f"{extra.name}, first", pictures.scaled_picture(cues[extra.name][0], extra.limits)))
    figures = []
    for caption, picture in tiles:
        height, width = picture.shape[:2]
        interpolation = cv2.INTER_AREA if height > TILE else cv2.INTER_NEAREST
        size = (round(width * TILE / height), TILE)
        figures.append(Figure(np.asarray(cv2.resize(picture, size, interpolation=interpolation)), caption))
    first, second = cues.frames
    title = (
        f"{store.clip_id(clip)}   clip {clip}, pair {pair}: {times[first]:.2f} s and {times[second]:.2f} s, "
        f"{cues.gap} frame{'s' * (cues.gap != 1)} apart"
    )
    return Row(title, figures)


def _confidence_picture(values: np.ndarray) -> np.ndarray:
    """White is 1, black is 0; invalid flow is tinted red, missing flow gray."""
    level = np.nan_to_num(values)[..., None] * np.array([255, 255, 255])
    picture = np.clip(level + (values <= MIN_CONFIDENCE)[..., None] * [90, 0, 0], 0, 255).astype(np.uint8)
    picture[~np.isfinite(values)] = pictures.MISSING
    return picture


def summary(store: CueStore) -> str:
    """Return one line: clips by status, frames and pairs per clip."""
    counts = np.bincount(store.statuses(), minlength=len(STATUS_NAMES))
    each = ", ".join(f"{counts[status]:,} {STATUS_NAMES[status]}" for status in (1, 2, 0) if counts[status])
    geometry = store.spec.geometry
    return f"{store.n_clips:,} clips ({each}), {geometry.frames} frames and {geometry.pairs} pairs each"


def stored_bytes(store: CueStore, tasks: Iterable[int]) -> dict[str, float]:
    """Return bytes per complete clip of each array, from the ledger records of some tasks."""
    totals, clips = dict.fromkeys(store.arrays, 0), 0
    for task in tasks:
        record = store.ledger.latest(task)
        if record is not None:
            clips += sum(clip.status == COMPLETE for clip in record.clips)
            for name, size in record.shard_bytes.items():
                totals[name] += size
    return {name: total / max(1, clips) for name, total in totals.items()}


def statistics(arrays: Iterable[np.ndarray]) -> tuple[float, float, float, float, float]:
    """Return minimum, mean, maximum and standard deviation of all finite values, and the share of the others.

    Without a finite value, mean and standard deviation are NaN.
    """
    count, missing, total, squares = 0, 0, 0.0, 0.0
    low, high = np.inf, -np.inf
    for values in arrays:
        finite = (values[np.isfinite(values)] if values.dtype.kind == "f" else values).astype(np.float64)
        count, missing = count + finite.size, missing + values.size - finite.size
        total, squares = total + float(finite.sum()), squares + float(np.square(finite).sum())
        low, high = float(finite.min(initial=low)), float(finite.max(initial=high))
    mean = total / count if count else np.nan
    std = float(np.sqrt(max(0.0, squares / count - mean**2))) if count else np.nan
    return low, mean, high, std, missing / max(1, missing + count)
