"""Where clips come from: a source yields clip ids and how to read them.

A new one is a small file with a class that has `name`, `clips()` and `open(clip_id)`, and a line in `DATASETS`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from lila_cues.datasets.base import DatasetOptions, Source, find_root
from stores.errors import LilaError

__all__ = ["SOURCES", "Source", "SourceOptions", "locate", "open_source"]

DEFAULTS = DatasetOptions()
DATASETS = {
    "demo": ("videos:open_demo", "clips rendered here, with known depth, flow and masks; needs no data"),
    "videos": ("videos:open_videos", "a folder of video files"),
    "frames": ("frames:open_frames", "a folder of folders of images"),
    "kinetics": ("kinetics:open_kinetics", "Kinetics-400, 600 or 700: training clips by list or folder"),
    "youtube-vos": ("frames:open_youtube_vos", "YouTube-VOS, train_all_frames"),
    "davis": ("frames:open_davis", "DAVIS 2016 or 2017, training sequences at 480p"),
}
"""Name → module here and function in it, and what it is."""


def open_dataset(name: str, root: Path | None = None, options: DatasetOptions = DEFAULTS) -> Source:
    """The source called `name`, in the folder `root` or where it is looked for; a `LilaError` if there is none."""
    module, opener = DATASETS[_known(name)][0].split(":")
    source: Source = getattr(importlib.import_module(f"{__name__}.{module}"), opener)(locate(name, root), options)
    return source


def locate(name: str, root: Path | None = None) -> Path:
    """The folder of a data set, by an absolute path; that of the demo may not exist yet."""
    return find_root(_known(name), root, made_here=name == "demo").absolute()


def _known(name: str) -> str:
    if name not in DATASETS:
        raise LilaError(
            f"expected a data set among {', '.join(DATASETS)}, found {name!r}; pass one of these as --dataset"
        )
    return name
