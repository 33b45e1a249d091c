"""`davis`: the training sequences of DAVIS 2016 or 2017 at 480p; its validation half is what we are scored on."""

from __future__ import annotations

from pathlib import Path

from lila_cues.sources.frames import Frames
from lila_cues.sources.source import SourceOptions
from stores.errors import LilaError

LISTS = ("2017/train.txt", "2016/train.txt", "480p/train.txt")


class Davis(Frames):
    """`JPEGImages/480p/SEQUENCE`, those of the first training list that is there, all if there is none."""

    name = "davis"


def at(root: Path, options: SourceOptions) -> Davis:
    """The source in that folder, or in the `DAVIS` folder that the archive makes in it."""
    home = next((place for place in (root, root / "DAVIS") if (place / "JPEGImages" / "480p").is_dir()), None)
    if home is None:
        raise LilaError(
            f"expected DAVIS with JPEGImages/480p in {root}, found no such folder; pass --root with the folder that "
            "holds JPEGImages, Annotations and ImageSets"
        )
    lists = [home / "ImageSets" / name for name in LISTS]
    train = next((path for path in lists if path.is_file()), None)
    return Davis(home / "JPEGImages" / "480p", rate=24.0, only=None if train is None else _sequences(train))


def _sequences(path: Path) -> list[str]:
    """Sequence names: one per line (2017), or lines of an image and its annotation (2016)."""
    words = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    names = [word.strip("/").split("/")[-2] if "/" in word else word for word in words]
    return sorted(set(names))
