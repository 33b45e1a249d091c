"""Folders of video files, and the rendered demo, which is one after rendering."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lila_cues.datasets.base import Dataset, DatasetOptions, walk_files
from lila_cues.video.decoders import FrameReader
from stores.errors import LilaError

SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg",
    ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".vob",
})  # fmt: skip


class Videos(Dataset):
    """Every video file below `root`; a clip's id is its path from there."""

    def clips(self) -> Sequence[str]:
        names = list(walk_files(self.root, SUFFIXES))
        if not names:
            raise LilaError(
                f"expected video files ({', '.join(sorted(SUFFIXES))}) in {self.root} or below, found none; "
                "pass --root with the folder that holds them"
            )
        return names

    def open(self, clip_id: str) -> FrameReader:
        from lila_cues.video.reader import open_video  # imports PyAV, which a command line need not wait for

        return open_video(self.path(clip_id), self.options.decoder)


class Demo(Videos):
    """The training split of the rendered clips; listing them renders those that are missing."""

    def __init__(self, root: Path, options: DatasetOptions):
        super().__init__(root / "train", options)

    def clips(self) -> Sequence[str]:
        from lila_cues.demo.dataset import render_demo

        render_demo(self.root.parent, seed=self.options.seed)
        return super().clips()
