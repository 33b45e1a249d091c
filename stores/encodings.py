"""How a cue's numbers are kept: as they are, in equal steps, or in rows with a scale each; and how far off that may be.

Values that cannot be kept (NaN, infinite, out of range) are kept as *missing* and read as NaN, never as another number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stores.codecs import Blosc

_ZSTD = Blosc()


@dataclass(frozen=True)
class Plain:
    """Stored in `dtype`; for float16 a relative rounding error of 2⁻¹¹, for integers none."""

    dtype: str
    codec: Blosc = _ZSTD

    def encode(self, values: np.ndarray) -> np.ndarray:
        """`values` in the stored type."""
        dtype = np.dtype(self.dtype)
        if dtype.kind != "f":
            return np.asarray(values).astype(dtype, copy=False)
        return np.where(np.abs(values) <= np.finfo(dtype).max, values, np.nan).astype(dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Floats as float32 or float64, integers as they are."""
        return stored.astype(np.float32) if stored.dtype == np.float16 else stored

    def error_bound(self, values: np.ndarray) -> np.ndarray:
        """Largest |decoded − value| for each finite value in range."""
        dtype = np.dtype(self.dtype)
        if dtype.kind != "f":
            return np.zeros_like(values)
        info = np.finfo(dtype)
        return np.maximum(np.abs(values) * 2.0 ** -(info.nmant + 1), float(info.smallest_subnormal) / 2)

    @property
    def missing(self) -> float | int:
        """The stored value that stands for none."""
        return _MISSING_PLAIN[np.dtype(self.dtype).kind]


@dataclass(frozen=True)
class Steps:
    """Stored as the nearest whole number of `step`s; error at most step / 2 within ± (max − 1) · step."""

    step: float
    dtype: str = "int16"
    codec: Blosc = _ZSTD

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Whole steps, `missing` where there is no value or none that fits."""
        with np.errstate(over="ignore"):
            steps = np.rint(np.asarray(values, np.float32) * np.float32(1 / self.step))
        fits = np.abs(steps) <= np.iinfo(self.dtype).max
        return np.where(fits, steps, np.float32(self.missing)).astype(self.dtype)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """float32, NaN where missing."""
        values = stored.astype(np.float32)
        values *= np.float32(self.step)
        absent = stored == self.missing
        if absent.any():
            values[absent] = np.nan
        return values

    def error_bound(self, values: np.ndarray) -> np.ndarray:
        """Largest |decoded − value| for each finite value in range: half a step, and the rounding of float32."""
        return np.full(np.shape(values), self.step / 2) + np.abs(values) * 2.0**-23

    @property
    def missing(self) -> int:
        """The stored value that stands for none: the type's smallest, of which no positive counterpart exists."""
        return int(np.iinfo(self.dtype).min)


@dataclass(frozen=True)
class Rows:
    """int8 with one scale for each map (a channel of a frame), kept beside in the array `…_scale`.

    Error at most scale / 2, where scale = max|map| / 127.
    """

    dtype: str = "int8"
    codec: Blosc = _ZSTD

    def encode(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stored `… y x` and float32 scales `…` of maps `… y x`."""
        maps = np.asarray(values, np.float32)
        finite = np.abs(maps) <= _LARGEST_IN_ROWS
        maps = maps if finite.all() else np.where(finite, maps, np.float32(0))
        largest = np.iinfo(self.dtype).max
        scales = (np.abs(maps).max(axis=(-2, -1)) / np.float32(largest)).astype(np.float32)
        divisors = np.where(scales > 0, scales, 1)[..., None, None]
        steps = np.clip(np.rint(maps / divisors), -largest, largest)
        return np.where(finite, steps, self.missing).astype(self.dtype), scales

    def decode(self, stored: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """float32, NaN where missing."""
        values = stored.astype(np.float32)
        values *= scales[..., None, None]
        absent = stored == self.missing
        if absent.any():
            values[absent] = np.nan
        return values

    def error_bound(self, scales: np.ndarray) -> np.ndarray:
        """Largest |decoded − value| in each map."""
        return scales * (0.5 + 127 * 2.0**-22)

    @property
    def missing(self) -> int:
        """The stored value that stands for none."""
        return int(np.iinfo(self.dtype).min)


_LARGEST_IN_ROWS = np.float32(1e38)  # beyond, scale · 127 might not be finite

Encoding = Plain | Steps | Rows
_KINDS: dict[str, type[Plain] | type[Steps] | type[Rows]] = {"plain": Plain, "steps": Steps, "rows": Rows}
_MISSING_PLAIN: dict[str, float | int] = {"f": float("nan"), "i": -1, "u": 0}


def to_dict(encoding: Encoding) -> dict[str, Any]:
    """As it stands in a store's attributes."""
    kind = next(name for name, cls in _KINDS.items() if type(encoding) is cls)
    return {"kind": kind, **asdict(encoding)}


def from_dict(entry: dict[str, Any]) -> Encoding:
    """The inverse of `to_dict`."""
    fields = dict(entry)
    cls = _KINDS[fields.pop("kind")]
    return cls(**{**fields, "codec": Blosc(**fields["codec"])})
