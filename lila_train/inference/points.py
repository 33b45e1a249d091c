"""Points of images and videos, read from a CSV or JSON file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lila_cues.inputs import InputFile, read_text
from lila_train.model.resize import Size
from stores.errors import LilaError

MAX_POINTS = 1_000_000


@dataclass(frozen=True)
class Points:
    """Points (x, y) in pixels, 0 at the center of the first pixel; of each the frame and the input, where given."""

    path: Path
    xy: Float[np.ndarray, "n 2"]
    frames: Int[np.ndarray, " n"] | None
    files: list[str] | None

    @property
    def starts(self) -> Int[np.ndarray, " n"]:
        """The frame of each point; 0 where none is given."""
        return np.zeros(len(self.xy), int) if self.frames is None else self.frames

    def of_file(self, file: InputFile) -> Int[np.ndarray, " m"]:
        """Return the rows of an input's points: all of them where none names a file."""
        names = {str(file.path), file.path.name, str(file.name)}
        return np.array([row for row in range(len(self.xy)) if self.files is None or self.files[row] in names], int)

    def require_known(self, files: Iterable[InputFile]) -> None:
        """Raise LilaError for a point of a file that is none of the inputs."""
        names = {name for file in files for name in (str(file.path), file.path.name, str(file.name))}
        for row, name in enumerate(self.files or []):
            if name not in names:
                raise LilaError(f"{self.path}, point {row}: expected one of the inputs as file, found {name}")

    def require_inside(self, rows: Int[np.ndarray, " m"], size: Size, file: Path, frame: int = 0) -> None:
        """Raise LilaError for a point outside of an image or frame of this height and width."""
        outside = ~((self.xy[rows] >= 0) & (self.xy[rows] <= [size[1] - 1, size[0] - 1])).all(axis=1)
        if outside.any():
            row = rows[outside][0]
            x, y = self.xy[row]
            raise LilaError(
                f"{self.path}, point {row}: expected x up to {size[1] - 1} and y up to {size[0] - 1} in frame {frame} "
                f"of {file}, found ({x:g}, {y:g})"
            )


def read_points(path: Path) -> Points:
    """Read points from a CSV file with columns x, y and, where wanted, frame and file, or a JSON list of the same.

    A CSV without a header has the columns x, y, frame. A row of the JSON list is an object or [x, y] or [x, y, frame].
    LilaError for a file in another form, with its first bad row.
    """
    if not path.exists():
        raise _bad(path, "no such file")
    text = read_text(path)
    try:
        rows = _json_rows(text) if path.suffix.lower() == ".json" else _csv_rows(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise _bad(path, f"another file ({error})") from error
    if not 0 < len(rows) <= MAX_POINTS:
        raise _bad(path, f"{len(rows):,} points")
    names = {name for row in rows for name in ("frame", "file") if row.get(name) not in (None, "")}
    xy, frames = np.empty((len(rows), 2)), np.empty(len(rows), int)
    for number, row in enumerate(rows):
        try:
            xy[number], frame = (float(row["x"]), float(row["y"])), float(row["frame"] if "frame" in names else 0)
            frames[number] = frame
            if not (math.isfinite(xy[number].sum()) and frame >= 0 and frame == frames[number]):
                raise ValueError
            if "file" in names and not isinstance(row["file"], str):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise _bad(path, f"point {number} as {json.dumps(row)}") from None
    return Points(
        path, xy, frames if "frame" in names else None, [row["file"] for row in rows] if "file" in names else None
    )


def _csv_rows(text: str) -> list[dict[str, Any]]:
    lines = [line for line in text.splitlines() if line.strip()]
    delimiter = max(",;\t ", key=lines[0].count) if lines else ","
    table = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=delimiter)]
    head = [name.lower() for name in table[0]] if table else []
    if "x" not in head:
        head = ["x", "y", "frame"][: len(head)]
        if table and len(table[0]) > 3:
            raise ValueError(f"{len(table[0])} columns, none of them named x")
    else:
        table = table[1:]
    return [dict(zip(head, row, strict=False)) for row in table]


def _json_rows(text: str) -> list[dict[str, Any]]:
    found = json.loads(text)
    if isinstance(found, dict):
        found = found.get("points")
    if not isinstance(found, list):
        raise ValueError("no list")
    return [dict(zip(("x", "y", "frame"), row, strict=False)) if isinstance(row, list) else row for row in found]


def _bad(path: Path, found: str) -> LilaError:
    return LilaError(
        f"{path}: expected points in pixels, as CSV with the columns x, y and, where wanted, frame (from 0) and file, "
        f"or as a JSON list of [x, y], [x, y, frame] or objects with these names; found {found}"
    )


def to_network(xy: Float[np.ndarray, "n 2"], native: Size, size: tuple[int, ...]) -> Float[np.ndarray, "n 2"]:
    """Return points of an image of `native` height and width in pixels of the same image resized to `size`."""
    places = (xy + 0.5) * [size[1] / native[1], size[0] / native[0]] - 0.5
    return np.clip(places, 0, [size[1] - 1, size[0] - 1]).astype(np.float32)


def from_network(xy: Float[np.ndarray, "n 2"], native: Size, size: tuple[int, ...]) -> Float[np.ndarray, "n 2"]:
    """Return the inverse of `to_network`."""
    places = (xy + 0.5) * [native[1] / size[1], native[0] / size[0]] - 0.5
    return np.clip(places, 0, [native[1] - 1, native[0] - 1])
