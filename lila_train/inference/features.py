"""Features of images and videos, written into a cache: images in batches of one size, videos frame by frame.

Reading, computing and writing overlap. PCA pictures use one basis per file, or one for all files (`shared_basis`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lila_cues.devices import to_host
from lila_cues.images import read_image, resize_short_side
from lila_cues.inputs import InputFile
from lila_cues.prefetch import batched, map_ordered, prefetch
from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter
from lila_cues.viz.pictures import Basis, Picture, pca_basis, write_png
from lila_train.inference.compute import FeatureComputer, pca_colors, spread_pixels
from lila_train.inference.feature_cache import FeatureCache, Features
from lila_train.model.prepared import require_finite
from lila_train.outputs import name_kept
from stores.errors import LilaError, StoreError

PENDING = 4  # frames read ahead, and frames waiting to be written
BASIS_FRAMES = 6  # of a video, spread over it

OnFrame = Callable[[], None]
Result = Callable[[], tuple[Features | None, Picture | None]]
"""Waits for a picture's features, where arrays are stored, and for its PCA picture, where one is wanted."""


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

    def images(self, files: Iterable[InputFile], on_frame: OnFrame) -> Iterator[str]:
        """Extract images; yields a message for each one that cannot be read."""
        for message in map_ordered(self._write, self._computed(files), PENDING):
            on_frame()
            if message is not None:
                yield message

    def _computed(self, files: Iterable[InputFile]) -> Iterator[tuple[InputFile, Result | str]]:
        """Yield each file with its result, or with the message that says why it cannot be read."""
        pictures = map_ordered(self._read, files, self._ahead)
        for shape, same_size in groupby(pictures, key=lambda item: getattr(item[1], "shape", None)):
            if shape is None:
                yield from same_size
                continue
            for group in batched(same_size, self.compute.pass_size(shape)):
                computed = self.compute([picture for _, picture in group])
                for (file, _), features in zip(group, computed, strict=True):
                    yield file, self._result(features, self.basis)

    def _result(self, features: Features | Tensor, basis: Basis | None) -> Result:
        """Color features on the device, by their own basis where there is no other, and queue what is to be written."""
        tensors: dict[str, Tensor] = {}
        if "pca" in self.config.format:
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

    def _read(self, file: InputFile) -> tuple[InputFile, Any]:
        """Return a file with its picture, or with the message that says why it cannot be read."""
        try:
            return file, resize_short_side(read_image(file.path), self.config.size)
        except LilaError as error:
            return file, str(error)

    def _write(self, item: tuple[InputFile, Result | str]) -> str | None:
        """Write what a file has given; return the message of an error, its own or the one in its place."""
        file, result = item
        if isinstance(result, str):
            return result
        try:
            features, picture = result()
            if features is not None:
                self.cache.write(file, None, features)
            if picture is not None:
                write_png(self.cache.path(file, "_pca.png"), picture)
            self.cache.record(file, "done")
        except StoreError:  # no file could be written
            raise
        except LilaError as error:
            return str(error)
        return None

    def video(self, file: InputFile, on_frame: OnFrame) -> None:
        """Extract a video; arrays that an interrupted run has stored are read, not computed again."""
        config, basis = self.config, self.basis
        video = VideoFrames(file.path)
        resume = self.cache.state(file) == "begun"
        self.cache.record(file, "begun")

        def computed() -> Iterator[tuple[int, Result, bool]]:
            """Yield each frame's index and result, and whether its arrays are stored."""
            resized = (resize_short_side(picture, config.size) for picture in islice(video, config.max_frames))
            frames = prefetch(enumerate(resized), self._ahead)
            for shape, same_size in groupby(frames, key=lambda frame: frame[1].shape):
                for group in batched(same_size, self.compute.pass_size(shape)):
                    stored = {index: self.cache.read(file, index) if resume else None for index, _ in group}
                    new = iter(self.compute([picture for index, picture in group if stored[index] is None]))
                    for index, found in stored.items():
                        yield index, self._result(next(new) if found is None else found, basis), found is not None

        count = 0
        path = self.cache.path(file, "_pca.mp4")
        with name_kept(self.cache.folder, lambda: count), VideoWriter(path, video.rate) as writer:
            if "pca" in config.format and basis is None:
                basis = _basis(self.compute, _before_damage(spread_frames(video, config.max_frames)))

            def write(item: tuple[int, Result, bool]) -> None:
                index, result, stored = item
                features, picture = result()
                if features is not None:
                    self.cache.write(file, index, features, only_missing=stored)
                if picture is not None:
                    writer.write(picture)

            for _ in map_ordered(write, computed(), PENDING):
                count += 1
                on_frame()
        self.cache.record(file, "done", count)


def shared_basis(compute: FeatureComputer, files: Sequence[InputFile]) -> Basis:
    """Return one PCA basis for all of these files: of each image, and of a few frames of each video."""
    pictures = (
        picture
        for file in files
        for picture in (spread_frames(VideoFrames(file.path)) if file.is_video else [read_image(file.path)])
    )
    return _basis(compute, pictures)


def _basis(compute: FeatureComputer, pictures: Iterable[Picture]) -> Basis:
    resized = (resize_short_side(picture, compute.config.size) for picture in pictures)
    pixels = [spread_pixels(compute([picture])[0]) for picture in resized]
    return pca_basis(np.concatenate(pixels or [np.zeros((0, compute.model.decoder.widths.out), np.float32)]))


def _before_damage(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Yield the pictures up to an error, which the pass over all frames reports."""
    with suppress(LilaError):
        yield from pictures


def spread_frames(video: VideoFrames, limit: int | None = None) -> Iterator[Picture]:
    """Return a few frames, spread over the first `limit` frames of a video."""
    count = min(video.count or BASIS_FRAMES, limit or video.count or BASIS_FRAMES)
    step = max(1, count // BASIS_FRAMES)
    return islice(video, 0, min(count, step * BASIS_FRAMES), step)
