"""Features of images and videos, written into a cache: images in batches of one size, videos frame by frame.

Reading, computing and writing overlap. PCA pictures use one basis per file, or one for all files (`shared_basis`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from lila_cues import console
from lila_cues.devices import to_host
from lila_cues.images import image_size, read_image, resize
from lila_cues.inputs import InputFile, max_pixels
from lila_cues.prefetch import batched, map_ordered, prefetch
from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter
from lila_cues.viz.pictures import Basis, Picture, pca_basis, write_png
from lila_train.inference.compute import FeatureComputer, pca_colors, spread_pixels
from lila_train.inference.config import FeatureConfig
from lila_train.inference.feature_cache import COMPRESSED_SHARE, FeatureCache, Features
from lila_train.inference.points import Points, to_network
from lila_train.model.prepared import require_finite
from lila_train.model.resize import Size
from lila_train.outputs import Json, name_kept
from stores.errors import LilaError, StoreError
from stores.plan import free_space, readable

PENDING = 4  # frames read ahead, and frames waiting to be written
BASIS_FRAMES = 6  # of a video, spread over it
SAMPLED_IMAGES = 300  # whose sizes are read for an estimate
PICTURE_BYTES = {False: 2.0, True: 0.3}  # per pixel of a PCA picture; of a frame of a PCA video

K = TypeVar("K")
OnFrame = Callable[[], None]
Result = Callable[[], tuple[Features | None, Picture | None]]
"""Waits for a picture's features, where arrays are stored, and for its PCA picture, where one is wanted."""


class Resized(NamedTuple):
    """A picture at the network's size, and its own height and width."""

    picture: Picture
    native: Size


class Extractor:
    """Writes the features of files into a cache.

    Args:
        compute: computes the features of pictures.
        cache: where arrays and pictures go; its config shapes them.
        basis: PCA basis of all pictures; None for one of each file.
    """

    def __init__(self, compute: FeatureComputer, cache: FeatureCache, basis: Basis | None = None) -> None:
        self.compute, self.cache, self.basis, self.config = compute, cache, basis, cache.config
        self._ahead = max(PENDING, compute.batch or 0)

    def images(self, files: Iterable[InputFile], on_frame: OnFrame) -> list[str]:
        """Extract images; return a message for each one that cannot be read or written."""
        failures: list[str] = []

        def readable() -> Iterator[tuple[InputFile, Resized]]:
            for file, found in map_ordered(self._read, files, self._ahead):
                if isinstance(found, LilaError):
                    failures.append(str(found))
                    on_frame()
                else:
                    yield file, found

        for failure in map_ordered(self._write_image, self._computed(readable(), self.basis), PENDING):
            on_frame()
            if failure is not None:
                failures.append(failure)
        return failures

    def _computed(
        self,
        pictures: Iterable[tuple[K, Resized]],
        basis: Basis | None,
        stored: Callable[[K], Features | None] = lambda key: None,
    ) -> Iterator[tuple[K, Size, Result, bool]]:
        """Yield the key of each picture, its own size, its result, and whether its arrays are stored."""
        for shape, same_size in groupby(pictures, key=lambda item: item[1].picture.shape):
            for group in batched(same_size, self.compute.pass_size(shape)):
                known = [stored(key) for key, _ in group]
                missing = [one.picture for (_, one), found in zip(group, known, strict=True) if found is None]
                new = iter(self.compute(missing))
                for (key, resized), found in zip(group, known, strict=True):
                    result = self._result(next(new) if found is None else found, basis)
                    yield key, resized.native, result, found is not None

    def _result(self, features: Features | Tensor, basis: Basis | None) -> Result:
        """Color features on the device, by their own basis where there is no other, and start to copy the results."""
        tensors: dict[str, Tensor] = {}
        if self.cache.has_pictures:
            basis = basis or pca_basis(spread_pixels(features))
            tensors["picture"] = pca_colors(features, basis, self.compute.model.device)
        if isinstance(features, Tensor):
            tensors["range"] = torch.stack(features.aminmax())
            if self.cache.has_arrays:
                tensors["features"] = features
        wait = to_host(tensors) if tensors else dict

        def result() -> tuple[Features | None, Picture | None]:
            host = wait()
            if not isinstance(features, Tensor):
                return features, host.get("picture")
            require_finite(torch.from_numpy(host["range"]), "the model")
            return host.get("features"), host.get("picture")

        return result

    def _read(self, file: InputFile) -> tuple[InputFile, Resized | LilaError]:
        try:
            return file, _resized(read_image(file.path), self.config)
        except LilaError as error:
            return file, error

    def _write_image(self, item: tuple[InputFile, Size, Result, bool]) -> str | None:
        """Write what an image has given; return the message of an error."""
        file, native, result, _ = item
        try:
            features, picture = result()
            if features is not None:
                self.cache.write(file, None, features, _places(features, native))
                self.cache.describe(file, {}, self._attributes(native))
            if picture is not None:
                write_png(self.cache.path(file, "_pca.png"), picture)
            self.cache.record(file, "done")
        except StoreError:  # no file could be written
            raise
        except LilaError as error:
            return str(error)
        return None

    def _attributes(self, native: Size, **others: Any) -> Json:
        """Return the attributes of a file's Zarr group: of the file and of the model."""
        size = {"source_height": native[0], "source_width": native[1]}
        return {**size, **others, "model_encoder": self.compute.model.encoder.name}

    def video(self, file: InputFile, on_frame: OnFrame, on_basis: OnFrame = lambda: None) -> int:
        """Extract a video; arrays that an interrupted run has stored are read, not computed again.

        Args:
            on_basis: called after each frame of which the PCA basis is computed.

        Returns:
            The number of frames.
        """
        config, basis, count, native = self.config, self.basis, 0, (0, 0)
        video, path = VideoFrames(file.path), self.cache.path(file, "_pca.mp4")
        resume = self.cache.state(file) == "begun"
        self.cache.record(file, "begun")
        with name_kept(self.cache.folder, lambda: count), VideoWriter(path, video.rate / config.every) as writer:
            if self.cache.has_pictures and basis is None:
                basis = _basis(self.compute, _before_damage(spread_frames(video, config)), on_basis)

            def write(item: tuple[int, Size, Result, bool]) -> Size:
                index, size, result, stored = item
                features, picture = result()
                if features is not None:
                    self.cache.write(file, index, features, _places(features, size), only_missing=stored)
                if picture is not None:
                    writer.write(picture)
                return size

            frames = prefetch(enumerate(_resized(frame, config) for frame in _kept(video, config)), self._ahead)
            computed = self._computed(frames, basis, lambda index: self.cache.read(file, index) if resume else None)
            for size in map_ordered(write, computed, PENDING):
                native, count = size, count + 1
                on_frame()
            numbers = config.every * np.arange(count)
            attributes = self._attributes(native, frame_rate=float(video.rate))
            self.cache.describe(file, {"time": video.times()[numbers], "frame": numbers}, attributes)
        self.cache.record(file, "done", count)
        return count

    def points(self, file: InputFile, points: Points, on_frame: OnFrame) -> int:
        """Extract the features at points of an image or a video; returns the number of its frames that have some."""
        rows, at, config = points.of_file(file), points.frames, self.config
        video = VideoFrames(file.path) if file.is_video else None
        pictures: Iterable[tuple[int, Picture]]
        if video is None:
            pictures = [(0, read_image(file.path))]
        elif at is None:
            pictures = ((index * config.every, picture) for index, picture in enumerate(_kept(video, config)))
        else:
            pictures = enumerate(islice(video, int(at[rows].max(initial=-1)) + 1))
        parts: list[tuple[np.ndarray, ...]] = []
        native = (0, 0)
        for frame, picture in prefetch(pictures, self._ahead):
            here = rows if at is None else rows[at[rows] == frame]
            picture, native = _resized(picture, config)
            if len(here):
                points.require_inside(here, native, file.path, frame)
                features = self.compute.at(picture, to_network(points.xy[here], native, picture.shape))
                parts.append((features, here, np.full(len(here), frame)))
                on_frame()
        done = [frames[0] for _, _, frames in parts]
        if at is not None and len(missing := np.setdiff1d(at[rows], done)):
            raise LilaError(f"{points.path}: expected frame {missing[0]} in {file.path}, found no such frame")
        if parts:
            features, row, frames = (np.concatenate(part) for part in zip(*parts, strict=True))
            x, y = points.xy[row].T
            self.cache.write(file, None, features, {"x": x, "y": y, "frame": frames, "row": row})
            self.cache.describe(file, {}, self._attributes(native))
            self.cache.record(file, "done")
        return len(parts)


@dataclass(frozen=True)
class Estimate:
    """What is to be written: frames of each file (None: not announced), bytes, and the largest frame's."""

    frames: dict[InputFile, int | None]
    bytes: int
    largest_bytes: int  # of the features of one frame
    largest: Size

    @property
    def total_frames(self) -> int | None:
        counts = list(self.frames.values())
        return None if None in counts else sum(count for count in counts if count is not None)


def estimate(compute: FeatureComputer, cache: FeatureCache, files: Sequence[InputFile]) -> Estimate:
    """Estimate what the features of files will take, by the heads of the files; of many images by a sample of them."""
    config, width = cache.config, compute.model.decoder.widths.out
    images = [file for file in files if not file.is_video]
    shares = sum(COMPRESSED_SHARE if name == "zarr" else 1 for name in config.format if name != "pca")
    frames: dict[InputFile, int | None] = dict.fromkeys(images, 1)
    step = max(1, len(images) // SAMPLED_IMAGES)
    total, working, largest, largest_size = 0.0, 0, 0, (0, 0)
    for file in [*images[::step], *(file for file in files if file.is_video)]:
        try:
            video = VideoFrames(file.path) if file.is_video else None
            native = video.size if video else image_size(file.path)
        except LilaError:  # reported when it is its turn
            continue
        if video is not None:
            frames[file] = _kept_count(video, config)
        if native is None:
            continue
        size = config.network_size(native)
        if math.prod(size) > max(max_pixels(), math.prod(native)):  # reported, too
            continue
        rows, columns = config.map_size(size)
        frame_bytes = rows * columns * width * np.dtype(config.dtype).itemsize
        if frame_bytes > largest:
            largest, largest_size = frame_bytes, (rows, columns)
        if compute.tile(size) is not None:
            working = max(working, frame_bytes)
        per_frame = shares * frame_bytes + PICTURE_BYTES[file.is_video] * rows * columns * cache.has_pictures
        begun = cache.state(file) is not None
        total += (frames.get(file) or 1) * per_frame * (1 if video else step) - (begun and cache.stored_bytes(file))
    return Estimate(frames, max(0, round(total)) + working, largest, largest_size)


def require_room(wanted: Estimate, cache: FeatureCache, width: int) -> str:
    """Return a line with the bytes to be written and those that are free; LilaError where these do not suffice."""
    place, free = free_space(cache.folder)
    total, known = wanted.total_frames, [count or 0 for count in wanted.frames.values()]
    count = console.counted({"frames": sum(known)}) + ("" if total is not None else " or more")
    rows, columns = wanted.largest
    each = f"{readable(wanted.largest_bytes)} for {rows}×{columns} px, {width} channels, {cache.config.dtype}"
    if wanted.bytes > free:
        raise LilaError(
            f"expected {readable(wanted.bytes)} free in {place} for the features of {count} ({each}), found "
            f"{readable(free)}; pass --stride 4 (1/16 of the bytes), a smaller --size, --every N, --points FILE, "
            "--format pca for pictures alone, or another --out"
        )
    arrays = f", at most {each} before compression" if cache.has_arrays else ""
    return f"{count}: about {readable(wanted.bytes)}{arrays}; {readable(free)} free in {place}"


def shared_basis(compute: FeatureComputer, files: Sequence[InputFile]) -> Basis:
    """Return one PCA basis for all of these files: of each image, and of a few frames of each video."""
    return _basis(compute, (picture for file in files for _, picture in pictures_of(file)))


def _basis(compute: FeatureComputer, pictures: Iterable[Picture], on_frame: OnFrame = lambda: None) -> Basis:
    pixels = []
    for picture in pictures:
        pixels.append(spread_pixels(compute([_resized(picture, compute.config).picture])[0]))
        on_frame()
    return pca_basis(np.concatenate(pixels or [np.zeros((0, compute.model.decoder.widths.out), np.float32)]))


def _before_damage(frames: Iterable[tuple[int, Picture]]) -> Iterator[Picture]:
    """Yield the pictures up to an error, which the pass over all frames reports."""
    with suppress(LilaError):
        yield from (picture for _, picture in frames)


def _kept(video: VideoFrames, config: FeatureConfig) -> Iterator[Picture]:
    """Return every Nth frame of a video, up to the most that are wanted."""
    return islice(islice(video, 0, None, config.every), config.max_frames)


def _kept_count(video: VideoFrames, config: FeatureConfig) -> int | None:
    """Return how many frames `_kept` has, by what the file announces."""
    counts = [config.max_frames] if config.max_frames else []
    counts += [-(-video.count // config.every)] if video.count else []
    return min(counts) if counts else None


def pictures_of(file: InputFile, frames: int = BASIS_FRAMES) -> Iterator[tuple[int, Picture]]:
    """Return an image, or about as many frames spread over a video, with their numbers."""
    if file.is_video:
        return spread_frames(VideoFrames(file.path), FeatureConfig(), frames)
    return iter([(0, read_image(file.path))])


def spread_frames(
    video: VideoFrames, config: FeatureConfig, wanted: int = BASIS_FRAMES
) -> Iterator[tuple[int, Picture]]:
    """Return about as many of the frames that are kept of a video, spread over them, with their numbers in it."""
    count = _kept_count(video, config) or wanted
    step = max(1, count // wanted)
    chosen = islice(enumerate(_kept(video, config)), 0, min(count, step * wanted), step)
    return ((index * config.every, picture) for index, picture in chosen)


def _resized(picture: Picture, config: FeatureConfig) -> Resized:
    native = (picture.shape[0], picture.shape[1])
    return Resized(resize(picture, config.network_size(native)), native)


def _places(features: Features, native: Size) -> dict[str, np.ndarray]:
    """Return the rows and columns of a map in pixels of the input."""
    return {
        name: (np.arange(new) + 0.5) * (old / new) - 0.5
        for name, new, old in zip("yx", features.shape[-2:], native, strict=True)
    }
