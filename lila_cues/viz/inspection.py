"""One pair of a clip as a row of pictures: both frames, depth, flow, confidence, features before and after PAMR.

What a person wants to see of a store: its arrays, statistics and pictures; as tables and as one HTML file.

Numbers that describe what is in a store, from sums that add across clips.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lila_cues.viz import pictures
from lila_cues.viz.pictures import VALID, confidence
from stores.cues import PairCues
from stores.ledger import COMPLETE, STATUS_NAMES
from stores.plan import readable
from stores.store import CueStore

TILE = 224  # px, the height of a picture
_GAP, _LINE = 6, 22


@dataclass(frozen=True)
class Row:
    """The pictures of one pair, each with its caption, and a line about the pair."""

    title: str
    tiles: tuple[tuple[str, np.ndarray], ...]


def row(store: CueStore, clip: int, pair: int) -> Row:
    """The pictures of one pair."""
    cues, times = store.pair(clip, pair), store.read("frame_time", clip)
    first, second = cues.frames
    title = (
        f"{store.clip_id(clip)}   clip {clip}, pair {pair}: {times[first]:.2f} s and {times[second]:.2f} s, "
        f"{cues.gap} frame{'s' * (cues.gap != 1)} apart"
    )
    extra = [
        (f"{maps.name}, first", pictures.scaled_picture(cues[maps.name][0], maps.limits)) for maps in store.spec.extra
    ]
    return Row(title, tuple((caption, _fit(picture)) for caption, picture in (*_tiles(cues), *extra)))


def sheet(rows: Sequence[Row]) -> np.ndarray:
    """All rows one above the other, with titles and captions: uint8 y x 3."""
    width = max(sum(tile.shape[1] + _GAP for _, tile in row.tiles) + _GAP for row in rows)
    height = len(rows) * (TILE + 2 * _LINE + _GAP) + _GAP
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for number, each in enumerate(rows):
        top = _GAP + number * (TILE + 2 * _LINE + _GAP)
        draw.text((_GAP, top), each.title, fill="black", font=ImageFont.load_default(15))
        left = _GAP
        for caption, tile in each.tiles:
            image.paste(Image.fromarray(tile), (left, top + _LINE))
            draw.text((left, top + _LINE + TILE + 2), caption, fill=(90, 90, 90), font=ImageFont.load_default(13))
            left += tile.shape[1] + _GAP
    return np.asarray(image)


def _tiles(cues: PairCues) -> list[tuple[str, np.ndarray]]:
    assert cues.rgb is not None
    assert cues.depth is not None
    assert cues.flow_forward is not None
    assert cues.flow_backward is not None
    assert cues.features is not None
    assert cues.features_raw is not None
    length = np.hypot(*cues.flow_forward)
    agreement = confidence(cues.flow_forward, cues.flow_backward)
    basis = pictures.pca_basis(np.moveaxis(cues.features, 1, -1).reshape(-1, cues.features.shape[1]))
    return [
        ("RGB, first", cues.rgb[0]),
        ("RGB, second", cues.rgb[1]),
        (
            f"depth, {np.nanmin(cues.depth[0]):.3g} to {np.nanmax(cues.depth[0]):.3g}",
            pictures.depth_picture(cues.depth[0]),
        ),
        (f"flow, up to {np.nanpercentile(length, 98):.1f} px", pictures.flow_picture(cues.flow_forward)),
        (f"confidence, {100 * (agreement > VALID).mean():.0f} % valid", _grey(agreement)),
        ("features of the encoder", pictures.pca_picture(cues.features_raw[0], basis)),
        ("features refined, first", pictures.pca_picture(cues.features[0], basis)),
        ("features refined, second", pictures.pca_picture(cues.features[1], basis)),
    ]


def _grey(share: np.ndarray) -> np.ndarray:
    """White is 1, black is 0; what is not valid is tinted red, what is missing grey."""
    level = np.nan_to_num(share)[..., None] * np.array([255, 255, 255]) + (share <= VALID)[..., None] * [90, 0, 0]
    picture = np.clip(level, 0, 255).astype(np.uint8)
    picture[~np.isfinite(share)] = pictures.MISSING
    return picture


def _fit(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    size = (round(width * TILE / height), TILE)
    shrink = height > TILE
    resized: np.ndarray = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_NEAREST)
    return resized


@dataclass(frozen=True)
class Sums:
    """Of the finite values of an array: their number, sum, sum of squares, extremes; and how many are missing."""

    count: int = 0
    missing: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    @classmethod
    def of(cls, values: np.ndarray) -> Sums:
        """The sums of one array."""
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
        if not finite.size:
            return cls(missing=values.size)
        exact = finite.astype(np.float64)
        return cls(
            count=exact.size,
            missing=values.size - exact.size,
            total=float(exact.sum()),
            squares=float(np.square(exact).sum()),
            low=float(exact.min()),
            high=float(exact.max()),
        )

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.count + other.count,
            self.missing + other.missing,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @property
    def mean(self) -> float:
        """NaN where there is no value."""
        return self.total / self.count if self.count else float("nan")

    @property
    def deviation(self) -> float:
        """Standard deviation; NaN where there is no value."""
        if not self.count:
            return float("nan")
        return float(np.sqrt(max(0.0, self.squares / self.count - self.mean**2)))

    @property
    def missing_share(self) -> float:
        """Of all values."""
        return self.missing / max(1, self.missing + self.count)


def of_clips(store: CueStore, clips: Iterable[int]) -> dict[str, Sums]:
    """The sums of every array (scales left out) over some complete clips."""
    sums = {name: Sums() for name in store.arrays if not name.endswith("_scale")}
    for clip in clips:
        for name in sums:
            sums[name] += Sums.of(store.read(name, clip))
    return sums


def stored_bytes(store: CueStore, tasks: Iterable[int]) -> dict[str, float]:
    """Bytes per complete clip of each array, from the ledger records of some tasks."""
    totals, clips = dict.fromkeys(store.arrays, 0), 0
    for task in tasks:
        record = store.ledger.latest(task)
        if record is None:
            continue
        clips += sum(clip.status == COMPLETE for clip in record.clips)
        for name, size in record.shard_bytes.items():
            totals[name] += size
    return {name: total / max(1, clips) for name, total in totals.items()}


Table = tuple[list[str], list[list[str]]]  # heads, lines


@dataclass(frozen=True)
class Inspection:
    """Everything that `lila-cues inspect` shows."""

    path: str
    summary: str  # clips by status, in a line
    arrays: Table  # of each array: shape, type, size
    numbers: Table  # of each array: statistics over the clips looked at
    rows: tuple[Row, ...]  # the pictures of a pair each


def inspect(store: CueStore, clips: Sequence[int], rows: Sequence[Row]) -> Inspection:
    """Tables over `clips`, beside pictures that are already made."""
    return Inspection(store.path, summary(store), array_table(store, clips), number_table(store, clips), tuple(rows))


def summary(store: CueStore) -> str:
    """One line: clips by status, frames and pairs per clip."""
    counts = np.bincount(store.statuses(), minlength=len(STATUS_NAMES))
    each = ", ".join(f"{counts[status]:,} {STATUS_NAMES[status]}" for status in (1, 2, 0) if counts[status])
    geometry = store.spec.geometry
    return f"{store.n_clips:,} clips ({each}), {geometry.frames} frames and {geometry.pairs} pairs each"


def array_table(store: CueStore, clips: Sequence[int]) -> Table:
    """Every array: dimensions, type, encoding, bytes per clip raw and stored."""
    tasks = sorted({clip // store.spec.shard_clips for clip in clips})
    stored = stored_bytes(store, tasks)
    lines = []
    for name, array in store.arrays.items():
        sizes = " ".join(f"{dimension} {size}" for dimension, size in zip(array.dimensions, array.shape, strict=True))
        kept = f"{stored[name] / array.clip_bytes:.0%}" if stored[name] else "–"
        lines.append([name, sizes, array.dtype.name, readable(array.clip_bytes), readable(round(stored[name])), kept])
    return ["array", "per clip", "stored as", "raw", "stored", "kept"], lines


def number_table(store: CueStore, clips: Sequence[int]) -> Table:
    """Range, mean, deviation and missing share of every array over some clips."""
    lines = [
        [
            name,
            *(f"{value:.4g}" for value in (sums.low, sums.mean, sums.high, sums.deviation)),
            f"{sums.missing_share:.2%}",
        ]
        for name, sums in of_clips(store, clips).items()
    ]
    return ["cue", "lowest", "mean", "highest", "deviation", "missing"], lines


def page(found: Inspection) -> str:
    """A self-contained HTML document."""
    rows = "".join(_figure(row) for row in found.rows)
    name = html.escape(found.path)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title><style>{_STYLE}</style>"
        f"<h1>{name}</h1><p>{html.escape(found.summary)}</p>{rows}"
        f"<h2>Arrays</h2>{_table(found.arrays)}<h2>Values</h2>{_table(found.numbers)}"
    )


def _figure(row: Row) -> str:
    tiles = "".join(
        f"<figure><img alt='{html.escape(caption)}' src='data:image/png;base64,{_encoded(tile)}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, tile in row.tiles
    )
    return f"<section><h3>{html.escape(row.title)}</h3><div>{tiles}</div></section>"


def _table(table: Table) -> str:
    heads, lines = table
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in line) + "</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def _encoded(picture: np.ndarray) -> str:
    return base64.b64encode(pictures.png_bytes(picture)).decode()


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1300px; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
h3 { font-size: .95rem; font-weight: 500; margin: 1.5rem 0 .4rem; }
section div { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .5rem; }
figure { margin: 0; } img { width: 100%; border-radius: 4px; display: block; }
figcaption { font-size: .8rem; opacity: .75; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #8884; }
"""
