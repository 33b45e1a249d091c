"""`demo`: clips rendered on this machine, then treated as any other videos.

`videos`: any folder of video files, however deep.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lila_cues.datasets.base import DatasetOptions, inside, walk_files
from lila_cues.video.decoders import FrameReader
from lila_cues.video.reader import open_video
from stores.errors import LilaError

SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg",
    ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv", ".vob",
})  # fmt: skip


class Videos:
    """Every video file below `root`; a clip's id is its path from there."""

    name = "videos"

    def __init__(self, root: Path, decoder: str = "decord"):
        self.root, self.decoder = root, decoder

    def clips(self) -> Sequence[str]:
        """Paths of the video files below `root`, in the order of their names; a `LilaError` if there are none."""
        found = list(walk_files(self.root, SUFFIXES))
        if not found:
            raise LilaError(
                f"expected video files ({', '.join(sorted(SUFFIXES))}) in {self.root} or below, found none; "
                "pass --root with the folder that holds them"
            )
        return found

    def open(self, clip_id: str) -> FrameReader:
        """The frames of that file; a `LilaError` where it cannot be read."""
        return open_video(inside(self.root, clip_id), self.decoder)


def open_videos(root: Path, options: DatasetOptions) -> Videos:
    """The source in that folder."""
    return Videos(root, options.decoder)


class Demo(Videos):
    """The training half of the rendered clips; listing them renders what is not there yet."""

    name = "demo"

    def __init__(self, root: Path, decoder: str = "decord", seed: int = 0):
        super().__init__(root / "train", decoder)
        self.seed = seed

    def clips(self) -> Sequence[str]:
        """Render what is missing, then the paths of the videos below `root`."""
        from lila_cues.demo.dataset import render

        render(self.root.parent, seed=self.seed)
        return super().clips()


def open_demo(root: Path, options: DatasetOptions) -> Demo:
    """The source in that folder."""
    return Demo(root, options.decoder, options.seed)
