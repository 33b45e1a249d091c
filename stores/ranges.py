"""What the values of a clip may be. Each check tells what is wrong in a phrase, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from stores.arrays import ArraySpec

Check = Callable[[np.ndarray, ArraySpec], str | None]


def wrong_values(arrays: Mapping[str, ArraySpec], values: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """(array, phrase) for each decoded array of one clip that cannot be right."""
    for name, value in values.items():
        phrase = _CHECKS.get(name, _within_limits)(value, arrays[name])
        if phrase is not None:
            yield name, phrase
    frames = values["frame_index"]
    first, second = values["pair_frames"].T
    if first.size and first.min() >= 0 and max(first.max(), second.max()) < len(frames):
        gaps = frames[second] - frames[first]
        if not np.array_equal(gaps, values["pair_gap"]):
            yield "pair_gap", "it is not the distance of the pair's frames"


def _within_limits(values: np.ndarray, spec: ArraySpec) -> str | None:
    low, high = spec.attributes.get("limits", (-np.inf, np.inf))
    step = spec.encoding.error_bound(np.array([high]))[0] if np.isfinite(high) else 0.0
    if (np.isnan(values) | ((values >= low - step) & (values <= high + step))).all():
        return None
    return f"values beyond {low:g} to {high:g}"


def _depth(values: np.ndarray, spec: ArraySpec) -> str | None:
    if not np.isfinite(values).any(axis=(-2, -1)).all():
        return "a frame has no finite value"
    return "negative inverse depth" if np.nanmin(values) < 0 else None


def _flow(values: np.ndarray, spec: ArraySpec) -> str | None:
    if not np.isfinite(values).any(axis=(-3, -2, -1)).all():
        return "a pair has no finite value"
    far = 2 * max(spec.shape[-2:])
    return f"motion of more than {far} px" if np.nanmax(np.abs(values)) > far else None


def _features(values: np.ndarray, spec: ArraySpec) -> str | None:
    if not np.isfinite(values).all():
        return "values that are not finite"
    return "a frame of zeros" if (values == 0).all(axis=(-3, -2, -1)).any() else None


def _scale(values: np.ndarray, spec: ArraySpec) -> str | None:
    return None if (np.isfinite(values) & (values >= 0)).all() else "scales that are negative or not finite"


def _ascending(values: np.ndarray, spec: ArraySpec) -> str | None:
    good = np.isfinite(values).all() and (values >= 0).all() and (np.diff(values) >= 0).all()
    return None if good else "not ascending from zero on"


def _not_negative(values: np.ndarray, spec: ArraySpec) -> str | None:
    return "negative numbers" if (values < 0).any() else None


def _frames(values: np.ndarray, spec: ArraySpec) -> str | None:
    return "frames that the clip does not have" if (values < 0).any() else None


_CHECKS: dict[str, Check] = {
    "depth": _depth,
    "flow_forward": _flow,
    "flow_backward": _flow,
    "features": _features,
    "features_raw": _features,
    "features_scale": _scale,
    "features_raw_scale": _scale,
    "frame_index": _ascending,
    "frame_time": _ascending,
    "feature_channels": _not_negative,
    "pair_frames": _frames,
}
