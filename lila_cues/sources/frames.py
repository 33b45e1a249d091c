"""`frames`: a folder of folders of images, one folder per clip."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from lila_cues.decoding import FrameReader, ImageReader
from lila_cues.sources.source import SourceOptions, inside, natural, refuse_folder
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


def at(root: Path, options: SourceOptions) -> Frames:
    """The source in that folder."""
    return Frames(root)


def _images(folder: Path) -> list[str]:
    return sorted((entry.name for entry in os.scandir(folder) if _is_image(entry.name)), key=natural)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
