"""`davis`: the training sequences of DAVIS 2016 or 2017 at 480p; its validation half is what we are scored on.

`frames`: a folder of folders of images, one folder per clip.

`youtube-vos`: every frame of the training videos (`train_all_frames`), as the published models were trained.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from lila_cues.datasets.base import DatasetOptions, inside, natural, refuse_folder
from lila_cues.video.decoders import FrameReader, ImageReader
from stores.errors import LilaError

SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"])


class Frames:
    """Every folder below `root` that holds images; a clip's id is its path, its frames in natural order of name.

    `left_out`: known broken images, as `CLIP/FILE`. `only`: the clips to offer, all if None.
    """

    name = "frames"

    def __init__(
        self,
        root: Path,
        rate: float = 24.0,
        left_out: Collection[str] = frozenset(),
        only: Sequence[str] | None = None,
    ):
        self.root, self.rate, self.left_out, self.only = root, rate, left_out, only

    def clips(self) -> Sequence[str]:
        """Paths of the folders below `root`, in natural order; a `LilaError` where no folder holds an image."""
        found = list(self._folders()) if self.only is None else list(self.only)
        if not found:
            direct = " only images without a folder of their own" if _images(self.root) else " none"
            raise LilaError(
                f"expected folders of images ({', '.join(sorted(SUFFIXES))}) in {self.root}, found{direct}; "
                "pass --root with the folder above the clips' folders"
            )
        return found

    def open(self, clip_id: str) -> FrameReader:
        """The images of that folder; a `LilaError` where it or they are missing."""
        folder = inside(self.root, clip_id)
        if not folder.is_dir():
            raise LilaError(f"{folder}: expected a folder of frames, found none; check the list of clips or --root")
        names = [name for name in _images(folder) if f"{clip_id}/{name}" not in self.left_out]
        if not names:
            raise LilaError(f"{folder}: expected images, found none; copy the clip again or take it out")
        return ImageReader([folder / name for name in names], self.rate)

    def _folders(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.root, followlinks=True, onerror=refuse_folder):
            folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
            if Path(folder) != self.root and any(map(_is_image, files)):
                yield Path(folder).relative_to(self.root).as_posix()


def open_frames(root: Path, options: DatasetOptions) -> Frames:
    """The source in that folder."""
    return Frames(root)


def _images(folder: Path) -> list[str]:
    return sorted((entry.name for entry in os.scandir(folder) if _is_image(entry.name)), key=natural)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


LISTS = ("2017/train.txt", "2016/train.txt", "480p/train.txt")


class Davis(Frames):
    """`JPEGImages/480p/SEQUENCE`, those of the first training list that is there, all if there is none."""

    name = "davis"


def open_davis(root: Path, options: DatasetOptions) -> Davis:
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


FRAMES = "train_all_frames"
BROKEN = frozenset({"ef45ce3035/00099.jpg"})
"""Known to be broken in the published archive."""


class YoutubeVos(Frames):
    """`train_all_frames/JPEGImages/VIDEO`, 30 frames per second."""

    name = "youtube-vos"


def open_youtube_vos(root: Path, options: DatasetOptions) -> YoutubeVos:
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
