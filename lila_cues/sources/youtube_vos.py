"""`youtube-vos`: every frame of the training videos (`train_all_frames`), as the published models were trained."""

from __future__ import annotations

from pathlib import Path

from lila_cues.sources.frames import Frames
from lila_cues.sources.source import SourceOptions
from stores.errors import LilaError

FRAMES = "train_all_frames"
BROKEN = frozenset({"ef45ce3035/00099.jpg"})
"""Known to be broken in the published archive."""


class YoutubeVos(Frames):
    """`train_all_frames/JPEGImages/VIDEO`, 30 frames per second."""

    name = "youtube-vos"


def at(root: Path, options: SourceOptions) -> YoutubeVos:
    """The source in that folder: the data set's, its `train_all_frames`, or the folder that doubles on unpacking."""
    places = [root / FRAMES, root / FRAMES / FRAMES]
    if root.name == FRAMES:
        places.insert(0, root)
    home = next((place / "JPEGImages" for place in places if (place / "JPEGImages").is_dir()), None)
    if home is None:
        also = f" but {root / 'train'}, which has every fifth frame only" if (root / "train").is_dir() else ""
        raise LilaError(
            f"expected YouTube-VOS with {FRAMES}/JPEGImages in {root}, found no such folder{also}; unpack "
            f"{FRAMES}.zip there or pass --root with the folder that holds {FRAMES}"
        )
    return YoutubeVos(home, rate=30.0, left_out=BROKEN)
