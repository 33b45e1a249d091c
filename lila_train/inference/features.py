"""Features of images and videos, written into a cache: images in batches of one size, videos frame by frame.

Reading, computing and writing overlap. PCA pictures use one basis per file, or one for all files (`shared_basis`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lila_cues.images import read_image, resize_short_side
from lila_cues.inputs import InputFile
from lila_cues.prefetch import batched, map_ordered, prefetch
from lila_cues.video.reader import VideoFrames
from lila_cues.video.writer import VideoWriter
from lila_cues.viz.pictures import Basis, Picture, pca_basis, write_png
from lila_train.inference.config import FeatureConfig
from lila_train.inference.feature_cache import FeatureCache, Features
from lila_train.model.lila import MAX_UNTILED_PIXELS, Lila, require_finite
from lila_train.outputs import name_kept
from stores.errors import LilaError, StoreError

PENDING = 4  # frames read ahead, and frames waiting to be written
BASIS_FRAMES = 6  # of a video, spread over it
COLOR_ROWS = 512  # of a large image, colored at a time

OnFrame = Callable[[], None]


class Extractor:
    """Writes the features of files into a cache.

    Args:
        model: the model, on its device.
        cache: where arrays and pictures go; its config shapes them.
        batch: frames, or images of one size, computed at once.
        basis: PCA basis of all pictures; None for one of each file.
    """

    def __init__(self, model: Lila, cache: FeatureCache, batch: int = 1, basis: Basis | None = None) -> None:
        self.model, self.cache, self.batch, self.basis = model, cache, batch, basis
        self.config = cache.config

    def images(self, files: Iterable[InputFile], on_frame: OnFrame) -> Iterator[str]:
        """Extract images; yields a message for each one that cannot be read."""
        for message in map_ordered(self._write, self._computed(files), PENDING):
            on_frame()
            if message is not None:
                yield message

    def _computed(self, files: Iterable[InputFile]) -> Iterator[tuple[InputFile, Features | str | None]]:
        """Yield each file with its features, with the message that says why it failed, or None if written."""
        pictures = map_ordered(self._read, files, max(PENDING, self.batch))
        for shape, same_size in groupby(pictures, key=lambda item: getattr(item[1], "shape", None)):
            for group in batched(same_size, self.batch):
                if shape is None:
                    yield from group
                elif needs_tiles(self.config, shape):
                    for file, picture in group:
                        tiled = compute_tiled(self.model, self.config, picture, self.cache.folder)
                        yield file, self._write((file, tiled))
                else:
                    features = compute(self.model, self.config, [picture for _, picture in group])
                    yield from zip((file for file, _ in group), features.cpu().numpy(), strict=True)

    def _read(self, file: InputFile) -> tuple[InputFile, Any]:
        """Return a file with its picture, or with the message that says why it cannot be read."""
        try:
            return file, resize_short_side(read_image(file.path), self.config.size)
        except LilaError as error:
            return file, str(error)

    def _write(self, item: tuple[InputFile, Features | str | None]) -> str | None:
        """Write features; return the message of an error, their own or the one in their place."""
        file, features = item
        if features is None or isinstance(features, str):
            return features
        try:
            self.cache.write(file, None, features)
            if "pca" in self.config.format:
                basis = self.basis or pca_basis(spread_pixels(features))
                write_png(self.cache.path(file, "_pca.png"), pca_colors(features, basis, self.model.device))
            self.cache.record(file, "done")
        except StoreError:  # no file could be written
            raise
        except LilaError as error:
            return str(error)
        return None

    def video(self, file: InputFile, on_frame: OnFrame) -> None:
        """Extract a video; arrays that an interrupted run has stored are read, not computed again."""
        model, config = self.model, self.config
        basis: Basis | None = None
        video = VideoFrames(file.path)
        resume = self.cache.state(file) == "begun"
        self.cache.record(file, "begun")

        def computed() -> Iterator[tuple[int, Features, bool]]:
            frames = prefetch(enumerate(islice(video, config.max_frames)), max(PENDING, self.batch))
            for group in batched(frames, self.batch):
                stored = {index: self.cache.read(file, index) if resume else None for index, _ in group}
                missing = [resize_short_side(p, config.size) for index, p in group if stored[index] is None]
                new: Iterator[Features] = iter(())
                if missing and needs_tiles(config, missing[0].shape):
                    new = (compute_tiled(model, config, picture, self.cache.folder) for picture in missing)
                elif missing:
                    new = iter(compute(model, config, missing).cpu().numpy())
                for index, found in stored.items():
                    yield index, next(new) if found is None else found, found is not None

        count = 0
        path = self.cache.path(file, "_pca.mp4")
        with name_kept(self.cache.folder, lambda: count), VideoWriter(path, video.rate) as writer:
            if "pca" in config.format:
                basis = self.basis or _basis(model, config, _before_damage(spread_frames(video, config.max_frames)))

            def write(item: tuple[int, Features, bool]) -> None:
                index, features, stored = item
                self.cache.write(file, index, features, only_missing=stored)
                if basis is not None:
                    writer.write(pca_colors(features, basis, model.device))

            for _ in map_ordered(write, computed(), PENDING):
                count += 1
                on_frame()
        self.cache.record(file, "done", count)


@torch.inference_mode()
def compute(model: Lila, config: FeatureConfig, pictures: Sequence[Picture]) -> Float[Tensor, "b d h w"]:
    """Return features of pictures of one size, on the model's device, in the type of the arrays."""
    images = torch.from_numpy(np.stack(pictures)).movedim(-1, 1).to(model.device)
    precision = getattr(torch, config.precision)
    with torch.autocast(model.device.type, precision, enabled=precision != torch.float32):
        return require_finite(model(images).to(getattr(torch, config.dtype)), "the model")


@torch.inference_mode()
def compute_tiled(model: Lila, config: FeatureConfig, picture: Picture, folder: Path | None = None) -> Features:
    """Return features of a picture that is cut into tiles, mapped from an unnamed file in `folder`."""
    shape = (model.decoder.widths.out, *picture.shape[:2])
    with TemporaryFile(dir=folder) as file:  # the map keeps it; the default folder may be small
        out = np.memmap(file, np.dtype(config.dtype), "w+", shape=shape)
    tile = config.tile or 64 * model.encoder.patch_size
    precision = getattr(torch, config.precision)
    with torch.autocast(model.device.type, precision, enabled=precision != torch.float32):
        model.features(picture, tile=tile, overlap=config.overlap, out=out)
    return out


def needs_tiles(config: FeatureConfig, shape: tuple[int, ...]) -> bool:
    """Return whether a picture of this shape is larger than a tile, or than what is computed in one piece."""
    height, width = shape[:2]
    return height * width > MAX_UNTILED_PIXELS if config.tile is None else max(height, width) > config.tile


def shared_basis(model: Lila, config: FeatureConfig, files: Sequence[InputFile]) -> Basis:
    """Return one PCA basis for all of these files: of each image, and of a few frames of each video."""
    pictures = (
        picture
        for file in files
        for picture in (spread_frames(VideoFrames(file.path)) if file.is_video else [read_image(file.path)])
    )
    return _basis(model, config, pictures)


def _basis(model: Lila, config: FeatureConfig, pictures: Iterable[Picture]) -> Basis:
    pixels = []
    for picture in pictures:
        picture = resize_short_side(picture, config.size)
        if needs_tiles(config, picture.shape):
            pixels.append(spread_pixels(compute_tiled(model, config, picture)))
        else:
            pixels.append(spread_pixels(compute(model, config, [picture])[0].cpu().numpy()))
    return pca_basis(np.concatenate(pixels or [np.zeros((0, model.decoder.widths.out), np.float32)]))


def _before_damage(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Yield the pictures up to an error, which the pass over all frames reports."""
    with suppress(LilaError):
        yield from pictures


def spread_frames(video: VideoFrames, limit: int | None = None) -> Iterator[Picture]:
    """Return a few frames, spread over the first `limit` frames of a video."""
    count = min(video.count or BASIS_FRAMES, limit or video.count or BASIS_FRAMES)
    step = max(1, count // BASIS_FRAMES)
    return islice(video, 0, min(count, step * BASIS_FRAMES), step)


def spread_pixels(features: Features) -> Float[np.ndarray, "n d"]:
    """Return the feature vectors of about 20,000 pixels, spread over the image."""
    pixels = features.reshape(len(features), -1)
    return np.asarray(pixels[:, :: max(1, pixels.shape[1] // 20_000)], np.float32).T


@torch.inference_mode()
def pca_colors(features: Features, basis: Basis, device: torch.device) -> UInt8[np.ndarray, "h w 3"]:
    """Return features as red, green and blue; values beyond the range of the basis are clipped."""
    scale = 255 / np.maximum(basis.high - basis.low, 1e-9)
    axes = torch.tensor(basis.axes * scale, dtype=torch.float32, device=device)
    offset = torch.tensor(-(basis.mean @ basis.axes + basis.low) * scale, dtype=torch.float32, device=device)
    parts = []
    for top in range(0, features.shape[1], COLOR_ROWS):
        rows = torch.as_tensor(features[:, top : top + COLOR_ROWS], device=device).float()
        color = torch.tensordot(rows, axes, ([0], [0])) + offset
        parts.append(color.round_().clamp_(0, 255).to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)
