"""`kinetics`: Kinetics-400, 600 or 700, as its crawlers and its mirrors lay it out.

Training clips are taken: those named by an official list (CSV or JSON) where one is found, else all that lie in a
training folder, else all there are. Every copy lacks some clips of the list: they are no clips of the source.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lila_cues.decoding import FrameReader, open_video
from lila_cues.sources.kinetics_lists import find_list, read_list, video_of
from lila_cues.sources.source import SourceOptions, inside, walk_files
from lila_cues.sources.videos import SUFFIXES
from stores.errors import LilaError

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


def at(root: Path, options: SourceOptions) -> Kinetics:
    """The source in that folder."""
    return Kinetics(root, options.decoder)
