"""Clips as folders of images: any such folders, DAVIS, and YouTube-VOS."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lila_cues.datasets.base import Dataset, DatasetOptions, is_visible, natural_order, walk_files
from lila_cues.video.decoders import FrameReader, ImageReader
from stores.errors import LilaError

SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"])
DAVIS_TRAIN_LISTS = ("2017/train.txt", "2016/train.txt", "480p/train.txt")
YOUTUBE_VOS_FRAMES = "train_all_frames"


class Frames(Dataset):
    """Every folder below `root` that holds images; a clip's id is its path, its frames in natural order of name."""

    rate = 24.0
    broken_images: frozenset[str] = frozenset()
    """Images to skip, as `CLIP/FILE`."""

    def clips(self) -> Sequence[str]:
        names = list(self._clip_names())
        if not names:
            found = " only images without a folder of their own" if _images(self.root) else " none"
            raise LilaError(
                f"expected folders of images ({', '.join(sorted(SUFFIXES))}) in {self.root}, found{found}; "
                "pass --root with the folder above the clips' folders"
            )
        return names

    def open(self, clip_id: str) -> FrameReader:
        folder = self.path(clip_id)
        if not folder.is_dir():
            raise LilaError(f"{folder}: expected a folder of frames, found none; check the list of clips or --root")
        names = [name for name in _images(folder) if f"{clip_id}/{name}" not in self.broken_images]
        if not names:
            raise LilaError(f"{folder}: expected images, found none; copy the clip again or take it out")
        return ImageReader([folder / name for name in names], self.rate)

    def _clip_names(self) -> Iterable[str]:
        files = walk_files(self.root, SUFFIXES, folder_key=natural_order)
        return dict.fromkeys(path.rpartition("/")[0] for path in files if "/" in path)


class Davis(Frames):
    """The training sequences of DAVIS 2016 or 2017 at 480p; the validation sequences are for evaluation.

    `JPEGImages/480p/SEQUENCE` in `root` or in the `DAVIS` folder of the archive: those of the first training list that
    exists, all if there is none.
    """

    def __init__(self, root: Path, options: DatasetOptions):
        home = next((place for place in (root, root / "DAVIS") if (place / "JPEGImages" / "480p").is_dir()), None)
        if home is None:
            raise LilaError(
                f"expected DAVIS with JPEGImages/480p in {root}, found no such folder; pass --root with the folder "
                "that holds JPEGImages, Annotations and ImageSets"
            )
        super().__init__(home / "JPEGImages" / "480p", options)
        lists = [home / "ImageSets" / name for name in DAVIS_TRAIN_LISTS]
        self.train_list = next((path for path in lists if path.is_file()), None)

    def _clip_names(self) -> Iterable[str]:
        """Read the list: a sequence per line (2017), or an image and its annotation (2016)."""
        if self.train_list is None:
            return super()._clip_names()
        entries = [line.split()[0] for line in self.train_list.read_text().splitlines() if line.strip()]
        return sorted({entry.strip("/").split("/")[-2] if "/" in entry else entry for entry in entries})


class YoutubeVos(Frames):
    """Every frame of the YouTube-VOS training videos, at 30 frames per second, as the published models were trained.

    `train_all_frames/JPEGImages/VIDEO` in `root`, in `root` itself, or in the folder that doubles on unpacking.
    """

    rate = 30.0
    broken_images = frozenset({"ef45ce3035/00099.jpg"})  # broken in the published archive

    def __init__(self, root: Path, options: DatasetOptions):
        name = YOUTUBE_VOS_FRAMES
        places = [*([root] if root.name == name else []), root / name, root / name / name]
        home = next((place / "JPEGImages" for place in places if (place / "JPEGImages").is_dir()), None)
        if home is None:
            also = f" but {root / 'train'}, which has every fifth frame only" if (root / "train").is_dir() else ""
            raise LilaError(
                f"expected YouTube-VOS with {name}/JPEGImages in {root}, found no such folder{also}; unpack "
                f"{name}.zip there or pass --root with the folder that holds {name}"
            )
        super().__init__(home, options)


def _images(folder: Path) -> list[str]:
    """Return the names of a folder's images in natural order."""
    names = (entry.name for entry in os.scandir(folder))
    return sorted((name for name in names if is_visible(name, SUFFIXES)), key=natural_order)
