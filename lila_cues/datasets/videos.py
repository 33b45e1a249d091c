"""Clips as video files: any folder of them, the demo's rendered clips, and Kinetics."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lila_cues.datasets.base import Dataset, DatasetOptions
from lila_cues.inputs import VIDEO_SUFFIXES, list_files, walk_files
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_cues.video.reader import DecodedClip, Keep, Select

LIST_NAME = re.compile(r"(kinetics[-_]?\d*[-_]?(2020)?[-_])?train(_list)?\.(csv|json)", re.IGNORECASE)
CLIP_TIMES = re.compile(r"(?<=.)_\d{6}_\d{6}$")
TRAIN_FOLDERS = (
    "train", "train_256", "videos_train", "videos_train_256", "train_videos", "videos/train", "train/videos",
    "raw/train", "kinetics_train", "compress/train_256",
)  # fmt: skip
RELEASES = ("", "k400", "k600", "k700", "k700-2020", "kinetics400", "kinetics600", "kinetics700",
            "Kinetics-400", "Kinetics-600", "Kinetics-700", "kinetics_400", "kinetics_600", "kinetics_700",
            "kinetics_700_2020")  # fmt: skip
REPLACEMENTS = "replacement"


class Videos(Dataset):
    """Every video file below `root`; a clip's id is its path from there."""

    def clips(self) -> Sequence[str]:
        names = list(walk_files(self.root, VIDEO_SUFFIXES, natural=False))
        if not names:
            raise LilaError(
                f"expected video files ({', '.join(sorted(VIDEO_SUFFIXES))}) in {self.root} or below, found none; "
                "pass --root with the folder that holds them"
            )
        return names

    def read(self, clip_id: str, select: Select, keep: Keep) -> DecodedClip:
        from lila_cues.video.reader import read_clip  # imports PyAV, which a command line need not wait for

        return read_clip(self.path(clip_id), select, keep, self.options.decoder)


class Demo(Videos):
    """The training split of the rendered clips; listing them renders those that are missing."""

    def __init__(self, root: Path, options: DatasetOptions):
        super().__init__(root / "train", options)

    def clips(self) -> Sequence[str]:
        from lila_cues.demo.dataset import render_demo

        render_demo(self.root.parent, seed=self.options.seed)
        return super().clips()


class Kinetics(Videos):
    """Training clips of Kinetics-400, 600 or 700; a clip's id is its path from `root`.

    The official training list, where there is one beside the clips, in `annotations/` or in `list/`, selects the clips.
    Files are named `YOUTUBEID_000010_000020.mp4` (the official crawler and its mirrors) or `YOUTUBEID.mp4`. Files under
    `replacement/` (repaired copies of clips known to be corrupt) are read in place of the originals.
    """

    def clips(self) -> Sequence[str]:
        folders = (self.root / release / train for release in RELEASES for train in TRAIN_FOLDERS)
        folder = next((place for place in folders if place.is_dir()), self.root)
        prefix = "" if folder == self.root else folder.relative_to(self.root).as_posix() + "/"
        found = walk_files(folder, VIDEO_SUFFIXES, natural=False)
        names = [prefix + name for name in found if REPLACEMENTS not in name.split("/")]
        places = (self.root / release / place for release in RELEASES for place in ("", "annotations", "list"))
        files = (path for place in places for path in list_files(place, {".csv", ".json"}, natural=False))
        train_list = next((path for path in files if LIST_NAME.fullmatch(path.name) and path.is_file()), None)
        if train_list is not None:
            listed = read_train_list(train_list)
            names = [name for name in names if CLIP_TIMES.sub("", PurePosixPath(name).stem) in listed]
        if not names:
            raise LilaError(
                f"expected Kinetics clips (video files in a training folder, by class or flat) in {self.root}, "
                "found none; pass --root with the folder that holds them"
            )
        return names

    def path(self, clip_id: str) -> Path:
        """Return the clip's file, or its repaired copy below `replacement/` in `root` or beside the training folder."""
        path = super().path(clip_id)
        for home in (path.parent.parent, path.parent.parent.parent, self.root):
            folder = home / REPLACEMENTS
            if folder.is_dir():
                for place in (folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())):
                    if (place / path.name).is_file():
                        return place / path.name
        return path


def read_train_list(path: Path) -> set[str]:
    """Return the YouTube ids of a training list of Kinetics, which has one clip per video.

    A list is CSV (`label,youtube_id,time_start,time_end,split`; 400 also with `is_cc`, some mirrors omit columns) or
    JSON (`{youtube_id: {"annotations": {"label": …, "segment": [start, end]}, "subset": …, "url": …}}`).

    Raises:
        LilaError: a file in another format.
    """
    try:
        if path.suffix.lower() == ".json":
            entries = json.loads(path.read_text()).items()
            return {video for video, entry in entries if str(entry.get("subset", "train")).startswith("train")}
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if "youtube_id" not in (rows.fieldnames or ()):
                raise ValueError("no column youtube_id")
            return {row["youtube_id"] for row in rows if (row.get("split") or "train").startswith("train")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LilaError(
            f"{path}: expected a list of Kinetics (CSV with a column youtube_id, or the official JSON), found "
            f"something else ({error}); restore it, or take it away to use all clips of the training folder"
        ) from error
