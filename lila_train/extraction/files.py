"""One file after the other: images in batches, videos frame by frame, each written while the next is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lila_train.extraction.bases import video_basis
from lila_train.extraction.formats import ARRAYS, ArrayFormat, Features
from lila_train.extraction.network import Colours, Network, spread
from lila_train.extraction.settings import Cache
from lila_train.inference.images import read_image
from lila_train.inference.media import Medium
from lila_train.inference.overlap import Behind, ahead
from lila_train.inference.video import VideoFrames, VideoWriter
from stores.errors import LilaError
from stores.pictures import Basis, Picture, pca_basis, write_png

WAITING = 4  # frames read ahead, and frames that wait to be written

OnFrame = Callable[[], None]
Frame = tuple[int, Picture | Features, bool]  # index, what is there, whether it is to be computed
Read = tuple[Medium, Picture | LilaError]


@dataclass(frozen=True)
class Extractor:
    """Writes the features of files into a cache; `basis` is that of all pictures, None for one of each file."""

    network: Network
    cache: Cache
    batch: int = 1
    basis: Basis | None = None

    @property
    def formats(self) -> list[ArrayFormat]:
        """Those that hold arrays."""
        return [ARRAYS[name] for name in self.network.settings.formats if name in ARRAYS]

    @property
    def draws(self) -> bool:
        """Whether pictures are asked for."""
        return "pca" in self.network.settings.formats

    def place(self, medium: Medium) -> Path:
        """The path of its results, without a suffix."""
        return self.cache.folder / medium.name

    def images(self, media: Iterable[Medium], on_frame: OnFrame) -> Iterator[str]:
        """Do these images; gives the reasons why some could not be."""
        with Behind(WAITING) as behind:
            for group in _alike(ahead(self._read(media), max(WAITING, self.batch)), self.batch):
                readable = [(medium, p) for medium, p in group if isinstance(p, np.ndarray)]
                yield from (str(error) for _, error in group if isinstance(error, LilaError))
                if readable and self.network.needs_tiles(readable[0][1]):
                    for medium, picture in readable:
                        self._tiled(medium, picture)
                elif readable:
                    found = self.network.features([picture for _, picture in readable]).cpu().numpy()
                    for (medium, _), features in zip(readable, found, strict=True):
                        behind.run(lambda m=medium, f=features: self._image(m, f))  # type: ignore[misc]
                for _ in group:
                    on_frame()

    def _read(self, media: Iterable[Medium]) -> Iterator[Read]:
        for medium in media:
            try:
                yield medium, self.network.resized(read_image(medium.path))
            except LilaError as error:
                yield medium, error

    def _tiled(self, medium: Medium, picture: Picture) -> None:
        with TemporaryDirectory(dir=self.cache.folder, prefix=".tiles") as scratch:
            self._image(medium, self.network.tiled_features(picture, Path(scratch)))

    def _image(self, medium: Medium, features: Features) -> None:
        place = self.place(medium)
        for form in self.formats:
            form.write(place, None, features)
        if self.draws:
            colours = Colours(self.basis or pca_basis(spread(features)), self.network.device)
            picture = place.with_name(f"{place.name}_pca.png")
            picture.parent.mkdir(parents=True, exist_ok=True)
            write_png(picture, colours.of(features))
        self.cache.note(medium, "done")

    def video(self, medium: Medium, on_frame: OnFrame) -> None:
        """Do a video; what is there of its arrays from an earlier attempt is read, not computed."""
        film = VideoFrames(medium.path)
        kept = self.formats[0] if self.formats and self.cache.is_begun(medium) else None
        self.cache.note(medium, "begun")
        place = self.place(medium)
        path = place.with_name(f"{place.name}_pca.mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, film.rate) as writer, Behind(WAITING) as behind:
            colours = (
                Colours(self.basis or video_basis(self.network, film), self.network.device) if self.draws else None
            )
            for group in _groups(self._frames(film, kept, place), self.batch):
                for index, features, is_new in self._computed(group):
                    behind.run(lambda i=index, f=features, n=is_new: self._frame(place, i, f, n, colours, writer))  # type: ignore[misc]
                    on_frame()
        self.cache.note(medium, "done")

    def _frames(self, film: VideoFrames, kept: ArrayFormat | None, place: Path) -> Iterator[Frame]:
        """(index, features, False) of frames that are kept, (index, picture, True) of the others."""
        frames = ahead(enumerate(islice(film, self.network.settings.max_frames)), max(WAITING, self.batch))
        for index, picture in frames:
            stored = kept.read(place, index) if kept else None
            yield (index, self.network.resized(picture), True) if stored is None else (index, stored, False)

    def _computed(self, group: Sequence[Frame]) -> Iterator[tuple[int, Features, bool]]:
        new = [content for _, content, is_new in group if is_new]
        found = iter(self._features_of(new))
        for index, content, is_new in group:
            yield index, next(found) if is_new else content, is_new

    def _features_of(self, pictures: Sequence[Picture]) -> Sequence[Features]:
        if pictures and self.network.needs_tiles(pictures[0]):
            with TemporaryDirectory(dir=self.cache.folder, prefix=".tiles") as scratch:
                return [np.array(self.network.tiled_features(picture, Path(scratch))) for picture in pictures]
        return list(self.network.features(pictures).cpu().numpy()) if pictures else []

    def _frame(
        self, place: Path, index: int, features: Features, is_new: bool, colours: Colours | None, writer: VideoWriter
    ) -> None:
        for form in self.formats:
            if is_new or form.read(place, index) is None:
                form.write(place, index, features)
        if colours:
            writer.write(colours.of(features))


def _groups(items: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    ordered = iter(items)
    while group := list(islice(ordered, size)):
        yield group


def _alike(items: Iterable[Read], size: int) -> Iterator[list[Read]]:
    """Runs of at most `size` pictures of one size; what could not be read is in a group of its own."""
    group: list[Read] = []
    for item in items:
        if group and (len(group) == size or _kind(item[1]) != _kind(group[0][1])):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _kind(content: Picture | LilaError) -> object:
    return content.shape if isinstance(content, np.ndarray) else None
