"""Clips as folders of images: any such folders, DAVIS, and YouTube-VOS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lila_cues.datasets.base import Dataset, DatasetOptions
from lila_cues.inputs import IMAGE_SUFFIXES, list_files, walk_files
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_cues.video.reader import DecodedClip, Keep, Select


class Frames(Dataset):
    """Every folder below `root` that holds images; a clip's id is its path, its frames in natural order of name."""

    rate = 24.0
    broken_images: frozenset[str] = frozenset()  # to skip, as `CLIP/FILE`
    train_list: Path | None = None  # file with a clip per line, or with an image `…/CLIP/FILE` first in each line

    def clips(self) -> Sequence[str]:
        if self.train_list is not None:
            entries = [line.split()[0] for line in self.train_list.read_text().splitlines() if line.strip()]
            names = sorted({entry.strip("/").split("/")[-2] if "/" in entry else entry for entry in entries})
        else:
            files = walk_files(self.root, IMAGE_SUFFIXES)
            names = list(dict.fromkeys(path.rpartition("/")[0] for path in files if "/" in path))
        if not names:
            loose = list_files(self.root, IMAGE_SUFFIXES)
            found = "only images without a folder of their own" if loose else "none"
            raise LilaError(
                f"expected folders of images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {self.root}, found {found}; "
                "pass --root with the folder above the clips' folders"
            )
        return names

    def read(self, clip_id: str, select: Select, keep: Keep) -> DecodedClip:
        folder = self.path(clip_id)
        if not folder.is_dir():
            raise LilaError(f"{folder}: expected a folder of frames, found none; check the list of clips or --root")
        files = list_files(folder, IMAGE_SUFFIXES)
        paths = [path for path in files if f"{clip_id}/{path.name}" not in self.broken_images]
        if not paths:
            raise LilaError(f"{folder}: expected images, found none; copy the clip again or take it out")
        return read_images(paths, self.rate, select, keep)


def read_images(paths: Sequence[Path], rate: float, select: Select, keep: Keep) -> DecodedClip:
    """Read the selected ones of a clip's images, given in order, without an alpha channel.

    Raises:
        LilaError: a file that is not an image, or of another size than the others.
    """
    from lila_cues.images import read_image  # imports torch, which a command line need not wait for
    from lila_cues.video.reader import DecodedClip, selected

    indices = selected(select, len(paths))
    kept: dict[int, np.ndarray] = {}
    size = (0, 0)
    for index in sorted(set(indices)):
        image = read_image(paths[index], background=None)
        height, width = image.shape[:2]
        if kept and (height, width) != size:
            raise LilaError(
                f"{paths[index]}: expected {size[1]}×{size[0]} like the frames before it, found {width}×{height}; "
                "the frames of a clip must have one size"
            )
        size = (height, width)
        kept[index] = keep(image)
    frames, names = np.stack([kept[index] for index in indices]), [paths[index].stem for index in indices]
    return DecodedClip(len(paths), size, names, np.array(indices) / rate, frames)


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
        lists = (home / "ImageSets" / name for name in ("2017/train.txt", "2016/train.txt", "480p/train.txt"))
        self.train_list = next((path for path in lists if path.is_file()), None)


class YoutubeVos(Frames):
    """Every frame of the YouTube-VOS training videos, at 30 frames per second, as the published models were trained.

    `train_all_frames/JPEGImages/VIDEO` in `root`, in `root` itself, or in the folder that doubles on unpacking.
    """

    rate = 30.0
    broken_images = frozenset({"ef45ce3035/00099.jpg"})  # broken in the published archive

    def __init__(self, root: Path, options: DatasetOptions):
        name = "train_all_frames"
        places = [*([root] if root.name == name else []), root / name, root / name / name]
        home = next((place / "JPEGImages" for place in places if (place / "JPEGImages").is_dir()), None)
        if home is None:
            also = f" but {root / 'train'}, which has every fifth frame only" if (root / "train").is_dir() else ""
            raise LilaError(
                f"expected YouTube-VOS with {name}/JPEGImages in {root}, found no such folder{also}; unpack "
                f"{name}.zip there or pass --root with the folder that holds {name}"
            )
        super().__init__(home, options)
