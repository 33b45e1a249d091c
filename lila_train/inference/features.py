"""One PCA basis for many pictures, so that colours can be compared.

One file after the other: images in batches, videos frame by frame, each written while the next is computed.

Pictures to features and to colours, on the model's device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lila_cues.images import read_image, resized
from lila_cues.inputs import InputFile
from lila_cues.prefetch import Behind, ahead
from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter
from lila_cues.viz.pictures import Basis, Picture, pca_basis, write_png
from lila_train.inference.feature_cache import ARRAYS, ArrayFormat, Cache, Features, Settings
from lila_train.model.lila import MAX_UNTILED_PIXELS, Lila
from stores.errors import LilaError

_BASIS_PIXELS = 20_000
_ROWS = 512  # of a large image that are coloured at a time
_TILE_PATCHES = 64


@dataclass(frozen=True)
class Network:
    """The model with the settings that it runs under."""

    model: Lila
    settings: Settings

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.model.device

    @torch.inference_mode()
    def features(self, pictures: Sequence[Picture]) -> Float[Tensor, "b d h w"]:
        """Features of pictures of one size, in the type that is written, on the device."""
        images = torch.from_numpy(np.stack(pictures)).movedim(-1, 1).to(self.device)
        with self._precision():
            return self.model(images).to(self._dtype)

    @torch.inference_mode()
    def tiled_features(self, picture: Picture, scratch: Path) -> Features:
        """Features of a picture that is cut into tiles, in a file of `scratch`, not in memory."""
        shape = (self.model.decoder.widths.out, *picture.shape[:2])
        out = np.lib.format.open_memmap(scratch / "features.npy", "w+", np.dtype(self.settings.dtype), shape)
        tile = self.settings.tile or _TILE_PATCHES * self.model.encoder.patch_size
        with self._precision():
            self.model.features(picture, tile=tile, overlap=self.settings.overlap, out=out)
        return out

    def needs_tiles(self, picture: Picture) -> bool:
        """Whether it is larger than a tile, or than what is computed in one piece."""
        height, width = picture.shape[:2]
        tile = self.settings.tile
        return height * width > MAX_UNTILED_PIXELS if tile is None else max(height, width) > tile

    def resized(self, picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
        """At the size that the settings ask for."""
        return resized(picture, self.settings.size)

    def _precision(self) -> AbstractContextManager[object]:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.settings.precision))

    @property
    def _dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.settings.dtype)
        return found


class Colors:
    """Features as red, green and blue, in one basis."""

    def __init__(self, basis: Basis, device: torch.device) -> None:
        scale = 255 / np.maximum(basis.high - basis.low, 1e-9)
        offset = -(basis.mean @ basis.axes + basis.low) * scale
        self._axes = torch.tensor(basis.axes * scale, dtype=torch.float32, device=device)
        self._offset = torch.tensor(offset, dtype=torch.float32, device=device)

    @torch.inference_mode()
    def of(self, features: Features | Float[Tensor, "d h w"]) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of a d×h×w map, 512 rows at a time; values beyond the basis' range are cut off."""
        parts = []
        for top in range(0, features.shape[1], _ROWS):
            rows = torch.as_tensor(features[:, top : top + _ROWS], device=self._axes.device).float()
            color = torch.tensordot(rows, self._axes, ([0], [0])) + self._offset
            parts.append(color.round_().clamp_(0, 255).to(torch.uint8).cpu().numpy())
        return np.concatenate(parts)


def spread(features: Features) -> Float[np.ndarray, "n d"]:
    """Some pixels of a map, spread over it."""
    pixels = features.reshape(len(features), -1)
    return np.asarray(pixels[:, :: max(1, pixels.shape[1] // _BASIS_PIXELS)], np.float32).T


FRAMES = 6  # of a video that are looked at


def video_basis(network: Network, film: VideoFrames) -> Basis:
    """Of a few frames spread over the part of the video that is wanted."""
    return _basis(network, _some(film, network.settings.max_frames))


def shared_basis(network: Network, media: Sequence[InputFile]) -> Basis:
    """Of all these files: of each image, of a few frames of each video."""
    return _basis(network, (picture for medium in media for picture in _pictures(medium)))


def basis_fingerprint(basis: Basis) -> str:
    """Tells one basis from another: 16 hex digits of a hash of its values, rounded to four decimals."""
    digest = hashlib.sha256()
    for part in (basis.mean, basis.axes, basis.low, basis.high):
        digest.update(np.round(part, 4).tobytes())
    return digest.hexdigest()[:16]


def _pictures(medium: InputFile) -> Iterator[Picture]:
    return _some(VideoFrames(medium.path), None) if medium.is_video else iter([read_image(medium.path)])


def _some(film: VideoFrames, limit: int | None) -> Iterator[Picture]:
    count = min(film.count or FRAMES, limit or film.count or FRAMES)
    step = max(1, count // FRAMES)
    return islice(film, 0, min(count, step * FRAMES), step)


def _basis(network: Network, pictures: Iterable[Picture]) -> Basis:
    return pca_basis(np.concatenate([_sample(network, network.resized(picture)) for picture in pictures]))


def _sample(network: Network, picture: Picture) -> Float[np.ndarray, "n d"]:
    if network.needs_tiles(picture):
        with TemporaryDirectory() as scratch:
            return spread(network.tiled_features(picture, Path(scratch)))
    return spread(network.features([picture])[0].cpu().numpy())


WAITING = 4  # frames read ahead, and frames that wait to be written

OnFrame = Callable[[], None]
Frame = tuple[int, Picture | Features, bool]  # index, what is there, whether it is to be computed
Read = tuple[InputFile, Picture | LilaError]


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

    def place(self, medium: InputFile) -> Path:
        """The path of its results, without a suffix."""
        return self.cache.folder / medium.name

    def images(self, media: Iterable[InputFile], on_frame: OnFrame) -> Iterator[str]:
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

    def _read(self, media: Iterable[InputFile]) -> Iterator[Read]:
        for medium in media:
            try:
                yield medium, self.network.resized(read_image(medium.path))
            except LilaError as error:
                yield medium, error

    def _tiled(self, medium: InputFile, picture: Picture) -> None:
        with TemporaryDirectory(dir=self.cache.folder, prefix=".tiles") as scratch:
            self._image(medium, self.network.tiled_features(picture, Path(scratch)))

    def _image(self, medium: InputFile, features: Features) -> None:
        place = self.place(medium)
        for form in self.formats:
            form.write(place, None, features)
        if self.draws:
            colors = Colors(self.basis or pca_basis(spread(features)), self.network.device)
            picture = place.with_name(f"{place.name}_pca.png")
            picture.parent.mkdir(parents=True, exist_ok=True)
            write_png(picture, colors.of(features))
        self.cache.note(medium, "done")

    def video(self, medium: InputFile, on_frame: OnFrame) -> None:
        """Do a video; what is there of its arrays from an earlier attempt is read, not computed."""
        film = VideoFrames(medium.path)
        kept = self.formats[0] if self.formats and self.cache.is_begun(medium) else None
        self.cache.note(medium, "begun")
        place = self.place(medium)
        path = place.with_name(f"{place.name}_pca.mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, film.rate) as writer, Behind(WAITING) as behind:
            colors = Colors(self.basis or video_basis(self.network, film), self.network.device) if self.draws else None
            for group in _groups(self._frames(film, kept, place), self.batch):
                for index, features, is_new in self._computed(group):
                    behind.run(lambda i=index, f=features, n=is_new: self._frame(place, i, f, n, colors, writer))  # type: ignore[misc]
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
        self, place: Path, index: int, features: Features, is_new: bool, colors: Colors | None, writer: VideoWriter
    ) -> None:
        for form in self.formats:
            if is_new or form.read(place, index) is None:
                form.write(place, index, features)
        if colors:
            writer.write(colors.of(features))


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
