"""What a person wants to see of a store: its arrays, statistics and pictures; as tables and as one HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stores import pictures, statistics
from stores.contact_sheet import Row
from stores.ledger import STATUS_NAMES
from stores.plan import readable
from stores.store import CueStore

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
    stored = statistics.stored_bytes(store, tasks)
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
        for name, sums in statistics.of_clips(store, clips).items()
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
