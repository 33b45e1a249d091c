"""`kinetics`: Kinetics-400, 600 or 700, as its crawlers and its mirrors lay it out.

Training clips are taken: those named by an official list (CSV or JSON) where one is found, else all that lie in a
training folder, else all there are. Every copy lacks some clips of the list: they are no clips of the source.

The official lists of Kinetics, and how a file's name tells which clip it is.

CSV: `label,youtube_id,time_start,time_end,split` (400 also with `is_cc`; some mirrors leave out columns).
JSON: `{youtube_id: {"annotations": {"label": …, "segment": [start, end]}, "subset": …, "url": …}}`.
Files: `YOUTUBEID_000010_000020.mp4` (the official crawler and its mirrors) or `YOUTUBEID.mp4`.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lila_cues.datasets.base import DatasetOptions, inside, walk_files
from lila_cues.datasets.videos import SUFFIXES
from lila_cues.video.decoders import FrameReader
from lila_cues.video.reader import open_video
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


TRAIN_FOLDERS = (
    "train", "train_256", "videos_train", "videos_train_256", "train_videos", "videos/train", "train/videos",
    "raw/train", "kinetics_train", "compress/train_256",
)  # fmt: skip
HOMES = ("", "k400", "k600", "k700", "k700-2020", "kinetics400", "kinetics600", "kinetics700",
         "Kinetics-400", "Kinetics-600", "Kinetics-700", "kinetics_400", "kinetics_600", "kinetics_700",
         "kinetics_700_2020")  # fmt: skip
REPLACEMENTS = "replacement"


class Kinetics:
    """Training clips; a clip's id is its path from `root`.

    Files under `replacement/` (repaired copies of clips known to be corrupt) are read in place of those they replace.
    """

    name = "kinetics"

    def __init__(self, root: Path, decoder: str = "decord"):
        self.root, self.decoder = root, decoder

    def clips(self) -> Sequence[str]:
        """Paths of the training clips below `root`, in the order of their names; a `LilaError` if there are none."""
        found = list(self._listed(self._files()))
        if not found:
            raise LilaError(
                f"expected Kinetics clips (video files in a training folder, by class or flat) in {self.root}, "
                "found none; pass --root with the folder that holds them"
            )
        return found

    def open(self, clip_id: str) -> FrameReader:
        """The frames of that clip, or of its repaired copy; a `LilaError` where the file cannot be read."""
        path = inside(self.root, clip_id)
        return open_video(self._replacement(path) or path, self.decoder)

    def _files(self) -> Iterator[str]:
        """Video files of the training folder, if there is one, else all."""
        folder = self._training_folder()
        prefix = "" if folder == self.root else folder.relative_to(self.root).as_posix() + "/"
        for name in walk_files(folder, SUFFIXES):
            if REPLACEMENTS not in name.split("/"):
                yield prefix + name

    def _listed(self, files: Iterator[str]) -> Iterator[str]:
        path = find_list(self.root, HOMES)
        if path is None:
            yield from files
            return
        listed = read_list(path)
        yield from (name for name in files if video_of(name) in listed)

    def _training_folder(self) -> Path:
        places = (self.root / home / train for home in HOMES for train in TRAIN_FOLDERS)
        return next((place for place in places if place.is_dir()), self.root)

    def _replacement(self, path: Path) -> Path | None:
        """The repaired copy of a clip, below `replacement/` beside the training folder or in the root."""
        for home in (path.parent.parent, path.parent.parent.parent, self.root):
            copies = (folder / path.name for folder in _with_children(home / REPLACEMENTS))
            found = next((copy for copy in copies if copy.is_file()), None)
            if found is not None:
                return found
        return None


def _with_children(folder: Path) -> list[Path]:
    return [folder, *sorted(Path(entry) for entry in os.scandir(folder) if entry.is_dir())] if folder.is_dir() else []


def open_kinetics(root: Path, options: DatasetOptions) -> Kinetics:
    """The source in that folder."""
    return Kinetics(root, options.decoder)
