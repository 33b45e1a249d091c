"""How far cues that were computed again lie from those that are stored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stores.cues import ClipCues
from stores.encodings import Rows
from stores.store import CueStore

# Networks differ between devices and precisions by less than this; another network, frame or clip by far more.
_ALLOWED = {"rgb": 8.0, "depth": 0.05, "flow_forward": 0.5, "flow_backward": 0.5, "features": 0.1, "features_raw": 0.1}
_EXACT = ("feature_channels", "frame_index", "pair_frames", "pair_gap")


def deviations(store: CueStore, clip: int, cues: ClipCues) -> Iterator[tuple[str, float, float]]:
    """(array, what 99 % of the values stay below, what is allowed) for each array of a clip.

    In grey levels for rgb, relative to the frame's median for depth, in px for flow, in the deviation of the map for
    features, in its own units for an extra cue; 0 or infinite for what has to be the same.
    """
    allowed = _ALLOWED | {maps.name: maps.tolerance for maps in store.spec.extra}
    for name in store.cue_names:
        stored, again = store.read(name, clip).astype(np.float32), np.asarray(cues[name], np.float32)
        yield name, _far(name, stored, again, isinstance(store.arrays[name].encoding, Rows)), allowed[name]
    for name in _EXACT:
        same = np.array_equal(store.read(name, clip), cues[name])
        yield name, 0.0 if same else np.inf, 0.0


def _far(name: str, stored: np.ndarray, again: np.ndarray, in_rows: bool) -> float:
    if stored.shape != again.shape or (np.isfinite(stored) != np.isfinite(again)).mean() > 0.01:
        return np.inf
    error = np.abs(stored - again)
    if name == "depth":
        error /= np.maximum(np.nanmedian(stored, axis=(-2, -1), keepdims=True), 1e-6)
    if in_rows or name.startswith("features"):
        error /= np.maximum(np.nanstd(stored, axis=(-2, -1), keepdims=True), 1e-6)
    return float(np.nanquantile(error, 0.99))
