"""The official lists of Kinetics, and how a file's name tells which clip it is.

CSV: `label,youtube_id,time_start,time_end,split` (400 also with `is_cc`; some mirrors leave out columns).
JSON: `{youtube_id: {"annotations": {"label": …, "segment": [start, end]}, "subset": …, "url": …}}`.
Files: `YOUTUBEID_000010_000020.mp4` (the official crawler and its mirrors) or `YOUTUBEID.mp4`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from stores.errors import LilaError

LIST_NAME = re.compile(r"(kinetics[-_]?\d*[-_]?(2020)?[-_])?train(_list)?\.(csv|json)", re.IGNORECASE)
TIMED_NAME = re.compile(r"^(.+)_\d{6}_\d{6}$")


def video_of(name: str) -> str:
    """Id of the YouTube video that a file was cut from."""
    return TIMED_NAME.sub(r"\1", PurePosixPath(name).stem)


def find_list(root: Path, homes: Sequence[str]) -> Path | None:
    """The training list, in the usual places: beside the clips, under annotations/, or in a folder of its own."""
    for home in homes:
        for folder in (root / home, root / home / "annotations", root / home / "list"):
            if folder.is_dir():
                found = sorted(path for path in folder.iterdir() if LIST_NAME.fullmatch(path.name) and path.is_file())
                if found:
                    return found[0]
    return None


def read_list(path: Path) -> set[str]:
    """The videos of the training list; a clip of Kinetics is the only one cut from its video."""
    try:
        return set(_json_videos(path) if path.suffix.lower() == ".json" else _csv_videos(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LilaError(
            f"{path}: expected a list of Kinetics (CSV with a column youtube_id, or the official JSON), found "
            f"something else ({error}); restore it, or take it away to use all clips of the training folder"
        ) from error


def _csv_videos(path: Path) -> Iterator[str]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if "youtube_id" not in (reader.fieldnames or ()):
            raise ValueError("no column youtube_id")
        for row in reader:
            if (row.get("split") or "train").startswith("train"):
                yield row["youtube_id"]


def _json_videos(path: Path) -> Iterator[str]:
    entries: dict[str, Any] = json.loads(path.read_text())
    for video, entry in entries.items():
        if str(entry.get("subset", "train")).startswith("train"):
            yield video
