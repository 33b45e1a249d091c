"""The data sets that stage one reads clips from: video files, folders of images, and published ones in their layout.

A new one is a subclass of `Dataset` and a row in `DATASETS` (docs/adding-a-data-set.md).
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from lila_cues import inputs
from stores.errors import LilaError

if TYPE_CHECKING:
    from lila_cues.video.clip import DecodedClip, Keep, Select

log = logging.getLogger(__name__)

KINETICS_LIST = re.compile(r"(kinetics[-_]?\d*[-_]?(2020)?[-_])?train(_list)?\.(csv|json)", re.IGNORECASE)
KINETICS_FOLDERS = (
    "train", "train_256", "videos_train", "videos_train_256", "train_videos", "videos/train", "train/videos",
    "raw/train", "kinetics_train", "compress/train_256",
)  # fmt: skip
KINETICS_RELEASES = (
    "", "k400", "k600", "k700", "k700-2020", "kinetics400", "kinetics600", "kinetics700", "Kinetics-400",
    "Kinetics-600", "Kinetics-700", "kinetics_400", "kinetics_600", "kinetics_700", "kinetics_700_2020",
)  # fmt: skip
REPLACEMENTS = "replacement"
_ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f]|00[01][0-9a-f]|007f|005c)")


def clip_id(name: str) -> str:
    """Return a path as the id that a store can hold: bytes that are not UTF-8 and control characters as `\\uXXXX`."""
    return re.sub(r"[\udc80-\udcff\0-\x1f\x7f]|\\(?=u)", lambda found: f"\\u{ord(found[0]):04x}", name)


@dataclass
class Dataset(ABC):
    """Clips by id. `clips` runs once, in the process that plans; workers only call `read`.

    `decoder` is that of video files, `seed` that of the demo's scenes.
    """

    root: Path
    decoder: str = "pyav"
    seed: int = 0

    def __post_init__(self) -> None:  # noqa: B027 (many have no layout)
        """Find the layout in `root`; LilaError for another one."""

    @abstractmethod
    def clips(self) -> Sequence[str]:
        """Return all clip ids in an order that depends on the files alone; LilaError if there are none."""

    @abstractmethod
    def read(self, clip_id: str, select: Select, keep: Keep) -> DecodedClip:
        """Read the frames that `select(n_frames)` names, each through `keep`; LilaError where a clip cannot be read."""

    def frame_size(self, clip_id: str) -> tuple[int, int]:
        """Return the height and width of a clip's frames in px, by a header or the first image; LilaError without."""
        from lila_cues.images import read_image
        from lila_cues.video.reader import VideoFrames

        path = self.path(clip_id)
        if not path.is_dir():
            return VideoFrames(path).size
        height, width, _ = read_image(next(iter(inputs.list_files(path, inputs.IMAGE_SUFFIXES)), path)).shape
        return height, width

    def path(self, clip_id: str) -> Path:
        """Return the file or folder of a clip whose id is its path below `root`; LilaError if it leaves `root`."""
        relative = PurePosixPath(_ESCAPED.sub(lambda found: chr(int(found[1], 16)), clip_id))
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise LilaError(
                f"expected a clip id within {self.root}, found {clip_id!r}; ids are paths below that folder"
            )
        return self.root / relative


class Videos(Dataset):
    """Every video file below `root`; a clip's id is its path from there."""

    def clips(self) -> Sequence[str]:
        names, left_out = self.videos(self.root)
        if not names:
            raise LilaError(
                f"expected video files ({', '.join(sorted(inputs.VIDEO_SUFFIXES))}) in {self.root} or below, found none"
                f"{left_out}; pass --root with the folder that holds them"
            )
        return names

    def videos(self, folder: Path) -> tuple[list[str], str]:
        """Return the ids of the videos below a folder in `root`, and a phrase that counts other files, also logged."""
        left_out: Counter[str] = Counter()
        prefix = "" if folder == self.root else folder.relative_to(self.root).as_posix() + "/"
        found = inputs.walk_files(folder, inputs.VIDEO_SUFFIXES, natural=False, left_out=left_out)
        return [clip_id(prefix + name) for name in found], inputs.log_left_out(folder, left_out)

    def read(self, clip_id: str, select: Select, keep: Keep) -> DecodedClip:
        from lila_cues.video.reader import read_clip  # imports PyAV, which a command line need not wait for

        return read_clip(self.path(clip_id), select, keep, self.decoder)


class Demo(Videos):
    """The training split of the rendered clips; listing them renders those that are missing."""

    def __post_init__(self) -> None:
        self.root /= "train"

    def clips(self) -> Sequence[str]:
        from lila_cues.demo.dataset import render_demo

        render_demo(self.root.parent, seed=self.seed)
        return list(inputs.walk_files(self.root, inputs.VIDEO_SUFFIXES, natural=False))


class Kinetics(Videos):
    """Training clips of Kinetics-400, 600 or 700; a clip's id is its path from `root`.

    The official training list, where there is one beside the clips, in `annotations/` or in `list/`, selects the clips.
    Files are named `YOUTUBEID_000010_000020.mp4` (the official crawler and its mirrors) or `YOUTUBEID.mp4`. Files under
    `replacement/` (repaired copies of clips known to be corrupt) are read in place of the originals.
    """

    def clips(self) -> Sequence[str]:
        releases = [self.root / release for release in KINETICS_RELEASES]
        folders = (release / train for release in releases for train in KINETICS_FOLDERS)
        folder = next((place for place in folders if place.is_dir()), self.root)
        found, left_out = self.videos(folder)
        names = [name for name in found if REPLACEMENTS not in name.split("/")]
        places = (release / place for release in releases for place in ("", "annotations", "list"))
        files = (path for place in places for path in inputs.list_files(place, {".csv", ".json"}, natural=False))
        train_list = next((path for path in files if KINETICS_LIST.fullmatch(path.name) and path.is_file()), None)
        if train_list is not None:
            listed, found_clips = inputs.read_kinetics_list(train_list), len(names)
            names = [name for name in names if youtube_clip(name)[0] in listed]
            if others := found_clips - len(names):
                log.info("left out %d of %d clips that %s does not list", others, found_clips, train_list)
            if found_clips and not names:
                raise LilaError(
                    f"expected clips that {train_list} lists, found {found_clips} others in {folder}; restore it, "
                    "or take it away to use all clips of the training folder"
                )
        if not names:
            raise LilaError(
                f"expected Kinetics clips (video files in a training folder, by class or flat) in {self.root}, "
                f"found none{left_out}; pass --root with the folder that holds them"
            )
        copies = Counter(map(youtube_clip, names))
        if len(copies) < len(names):
            first = " and ".join([name for name in names if copies[youtube_clip(name)] > 1][:2])
            count = len(names) - len(copies)
            log.info("copies of other clips: %d (such as %s); each file is built under its own path", count, first)
        return names

    def path(self, clip_id: str) -> Path:
        """Return the clip's file, or its repaired copy below `replacement/` in `root` or beside the training folder.

        A copy in `replacement/CLASS/`, with a class as in the training folder, is for that class alone.
        """
        path = super().path(clip_id)
        for folder in (home / REPLACEMENTS for home in (*path.parents[1:3], self.root)):
            if folder.is_dir():
                for place in (folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())):
                    other = place.name != path.parent.name and (path.parents[1] / place.name).is_dir()
                    if (place / path.name).is_file() and not (place != folder and other):
                        return place / path.name
        return path


def youtube_clip(name: str) -> tuple[str, ...]:
    """Return the id of 11 characters in a clip's name, and start and end in s if it has them, without leading zeros.

    `ID_000010_000020.mp4` and `ID_10_20.mp4` are the same clip; `ID.mp4` has no times.
    """
    stem = PurePosixPath(name).stem
    found = re.fullmatch(r"(.{11}|.+(?=_\d{6}_\d{6}$))_0*(\d+)_0*(\d+)", stem)
    return found.groups() if found else (stem,)


class Frames(Dataset):
    """Every folder below `root` that holds images; a clip's id is its path, its frames in natural order of name."""

    rate = 24.0
    broken_images: frozenset[str] = frozenset()  # to skip, as `CLIP/FILE`
    train_list: Path | None = None  # for `read_sequences`

    def clips(self) -> Sequence[str]:
        if self.train_list is not None:
            names = sorted(inputs.read_sequences(self.train_list))
        else:
            left_out: Counter[str] = Counter()
            files = inputs.walk_files(self.root, inputs.IMAGE_SUFFIXES, left_out=left_out)
            names = list(dict.fromkeys(clip_id(path.rpartition("/")[0]) for path in files if "/" in path))
            inputs.log_left_out(self.root, left_out)
        if not names:
            loose = inputs.list_files(self.root, inputs.IMAGE_SUFFIXES)
            found = "only images without a folder of their own" if loose else "none"
            raise LilaError(
                f"expected folders of images ({', '.join(sorted(inputs.IMAGE_SUFFIXES))}) in {self.root}, "
                f"found {found}; pass --root with the folder above the clips' folders"
            )
        return names

    def read(self, clip_id: str, select: Select, keep: Keep) -> DecodedClip:
        folder = self.path(clip_id)
        if not folder.is_dir():
            raise LilaError(f"{folder}: expected a folder of frames, found none; check the list of clips or --root")
        files = inputs.list_frames(folder)
        paths = [path for path in files if f"{clip_id}/{path.name}" not in self.broken_images]
        if not paths:
            raise LilaError(f"{folder}: expected images, found none; copy the clip again or take it out")
        return read_images(paths, self.rate, select, keep)


def read_images(paths: Sequence[Path], rate: float, select: Select, keep: Keep) -> DecodedClip:
    """Read the selected ones of a clip's images, given in order, without an alpha channel.

    Raises LilaError for a file that is not an image, or of another size than the others.
    """
    from lila_cues.images import read_image  # imports torch, which a command line need not wait for
    from lila_cues.video.clip import DecodedClip, selected

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

    def __post_init__(self) -> None:
        places = (self.root, self.root / "DAVIS")
        home = next((place for place in places if (place / "JPEGImages" / "480p").is_dir()), None)
        if home is None:
            raise LilaError(
                f"expected DAVIS with JPEGImages/480p in {self.root}, found no such folder; pass --root with the "
                "folder that holds JPEGImages, Annotations and ImageSets"
            )
        self.root = home / "JPEGImages" / "480p"
        lists = (home / "ImageSets" / name for name in ("2017/train.txt", "2016/train.txt", "480p/train.txt"))
        self.train_list = next((path for path in lists if path.is_file()), None)


class YoutubeVos(Frames):
    """Every frame of the YouTube-VOS training videos, at 30 frames per second, as the published models were trained.

    `train_all_frames/JPEGImages/VIDEO` in `root`, in `root` itself, or in a second folder `train_all_frames`.
    """

    rate = 30.0
    broken_images = frozenset({"ef45ce3035/00099.jpg"})  # broken in the published archive

    def __post_init__(self) -> None:
        root, name = self.root, "train_all_frames"
        places = [*([root] if root.name == name else []), root / name, root / name / name]
        home = next((place / "JPEGImages" for place in places if (place / "JPEGImages").is_dir()), None)
        if home is None:
            also = f" but {root / 'train'}, which has every fifth frame only" if (root / "train").is_dir() else ""
            raise LilaError(
                f"expected YouTube-VOS with {name}/JPEGImages in {root}, found no such folder{also}; unpack "
                f"{name}.zip there or pass --root with the folder that holds {name}"
            )
        self.root = home


DATASETS: dict[str, type[Dataset]] = {
    "demo": Demo, "videos": Videos, "frames": Frames, "kinetics": Kinetics, "youtube-vos": YoutubeVos, "davis": Davis,
}  # fmt: skip


def open_dataset(name: str, root: Path | None = None, decoder: str = "pyav", seed: int = 0) -> Dataset:
    """Open the data set `name` in the folder that `locate` returns; LilaError if that has another layout."""
    folder = locate(name, root)  # which refuses an unknown name
    return DATASETS[name](folder, decoder, seed)


def locate(name: str, root: Path | None = None) -> Path:
    """Return the folder of a data set, or the demo's to be rendered; LilaError for an unknown name or no folder."""
    if name not in DATASETS:
        raise LilaError(
            f"expected a data set among {', '.join(DATASETS)}, found {name!r}; pass one of these as --dataset"
        )
    return inputs.find_dataset(name, root, create=name == "demo")
