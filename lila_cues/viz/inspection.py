"""Content of `lila-cues inspect`: arrays of a store, statistics from sums that add across clips, and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lila_cues.console import counted
from lila_cues.viz import pictures
from lila_cues.viz.html import Figure, Row
from lila_cues.viz.pictures import MIN_CONFIDENCE
from stores.ledger import COMPLETE, STATUS_NAMES
from stores.plan import readable
from stores.store import CueStore

Table = tuple[list[str], list[list[str]]]  # headings and rows


def tables(store: CueStore, clips: Sequence[int]) -> tuple[Table, Table]:
    """Return tables of the arrays, with their stored sizes in the tasks of `clips`, and of their values in `clips`."""
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
    array_heads = ["array", "per clip", "stored as", "raw", "stored", "compressed"]
    return (array_heads, arrays), (["cue", "min", "mean", "max", "std", "missing"], numbers)


def pair_row(store: CueStore, clip: int, pair: int) -> Row:
    """Draw one pair: frames, depth, confidence, flow, features before and after PAMR in one basis, additional cues."""
    cues, times = store.pair(clip, pair), store.read("frame_time", clip)
    rgb, inverse_depth, refined, raw = cues["rgb"], cues["depth"][0], cues["features"], cues["features_raw"][0]
    forward, backward = cues["flow_forward"], cues["flow_backward"]
    agreement = pictures.confidence(forward, backward)
    max_px = pictures.flow_scale(forward, backward)
    valid, basis = agreement > MIN_CONFIDENCE, pictures.pca_basis(np.moveaxis(refined, 1, -1).reshape(-1, len(raw)))
    first, second = times[list(cues.frames)]
    figures = [
        Figure(rgb[0], "Frame t", f"{_size(rgb[0])}, at {first:.2f} s", "jpeg"),
        Figure(rgb[1], "Frame t+Δ", f"Δ = {counted({'frames': cues.gap})}, at {second:.2f} s", "jpeg"),
        Figure(
            pictures.depth_picture(inverse_depth),
            "Relative inverse depth",
            f"{_size(inverse_depth)}, {np.nanmin(inverse_depth):.3g}–{np.nanmax(inverse_depth):.3g}",
        ),
        Figure(pictures.flow_picture(forward, max_px), "Flow t → t+Δ", f"full color at {max_px:.1f} px"),
        Figure(pictures.flow_picture(backward, max_px), "Flow t+Δ → t", "same scale"),
        Figure(pictures.confidence_picture(agreement), "Confidence", f"t → t+Δ, {100 * valid.mean():.0f} % valid"),
        Figure(pictures.pca_picture(raw, basis), "Encoder features, t", f"PCA, {_size(raw[0])}", enlarge=True),
        Figure(pictures.pca_picture(refined[0], basis), "Refined features, t", _size(refined[0, 0]), enlarge=True),
        Figure(pictures.pca_picture(refined[1], basis), "Refined features, t+Δ", "same basis", enlarge=True),
    ]
    for extra in store.spec.extra:
        figures.append(Figure(pictures.scaled_picture(cues[extra.name][0], extra.limits), f"{extra.name}, t"))
    return Row(f"{store.clip_id(clip)}: clip {clip}, pair {pair}", figures, 3)


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}×{picture.shape[0]}"


def summary(store: CueStore) -> str:
    """Return one line: clips by status, frames and pairs per clip."""
    counts = np.bincount(store.statuses(), minlength=len(STATUS_NAMES))
    each = ", ".join(f"{counts[status]:,} {STATUS_NAMES[status]}" for status in (1, 2, 0) if counts[status])
    geometry = store.spec.geometry
    frames, pairs = counted({"frames": geometry.frames}), counted({"pairs": geometry.pairs})
    return f"{counted({'clips': store.n_clips})} ({each}), {frames} and {pairs} each"


def stored_bytes(store: CueStore, tasks: Iterable[int]) -> dict[str, float]:
    """Return bytes per complete clip of each array, from the ledger records of some tasks."""
    totals, clips, listed = dict.fromkeys(store.arrays, 0), 0, store.ledger.keys()
    for task in tasks:
        record = store.ledger.latest(task, listed)
        if record is not None:
            clips += sum(clip.status == COMPLETE for clip in record.clips)
            for name, size in record.shard_bytes.items():
                totals[name] += size
    return {name: total / max(1, clips) for name, total in totals.items()}


def statistics(arrays: Iterable[np.ndarray]) -> tuple[float, float, float, float, float]:
    """Return minimum, mean, maximum and std of all finite values (NaN if there are none), and the others' share."""
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
