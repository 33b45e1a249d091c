"""Images with a target per pixel: data sets, and the views that probes are trained and scored on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torchvision.transforms import v2

from lila_train.model.resize import Size, size_of
from stores.errors import LilaError

NO_CROP = 100_000  # side of a view in pixels, larger than any image

Files = tuple[Path, ...]
Flip = Callable[[Shaped[Tensor, "t h w"]], Shaped[Tensor, "t h w"]]  # of a target, along with its image
View = tuple[Float[Tensor, "3 h w"], Shaped[Tensor, "t h w"]]  # image in [0, 1], target


@dataclass(frozen=True)
class Example:
    """An image and its target, channels first: a label per pixel, or a vector and whether it is known."""

    image: UInt8[Tensor, "3 H W"]
    target: Shaped[Tensor, "t H W"]


@dataclass(frozen=True)
class DenseData:
    """A listed data set: the files of every example, and how they are read."""

    root: Path
    train: Sequence[Files]
    val: Sequence[Files]
    read: Callable[[Files], Example]
    about: dict[str, Any]  # what else determines the scores: layout, lists, classes

    @property
    def files(self) -> list[Path]:
        return [path for files in (*self.train, *self.val) for path in files]

    @property
    def checks(self) -> list[Callable[[], object]]:
        return [partial(self.read, files) for files in (*self.train, *self.val)]


@dataclass(frozen=True)
class TrainView:
    """A random box of some share of the area, resized to a square, mirrored with probability ½, with color jitter.

    Without `antialias` an image that is reduced is sampled bilinearly, as the published code does in its own protocols.
    """

    side: int
    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)  # brightness, contrast, saturation
    antialias: bool = True

    def apply(self, example: Example, flip: Flip, rng: np.random.Generator) -> View:
        box = _box(*random_box(*size_of(example.image), self.area, self.ratio, rng))
        image, target = _resize(example.image[box] / 255, example.target[box], (self.side, self.side), self.antialias)
        if rng.random() < 0.5:
            image, target = image.flip(-1), flip(target)
        return _jitter(image, self.jitter, rng), target


@dataclass(frozen=True)
class ScaledCrop:
    """A random square of the image, whose short side is `side` times a random factor; mirrored with probability ½.

    Where the image is smaller it is padded: black, and `ignored` in the target.
    """

    side: int
    scale: tuple[float, float] = (0.5, 2.0)
    ignored: int = 255

    def apply(self, example: Example, flip: Flip, rng: np.random.Generator) -> View:
        image, target = _scaled(example, rng.uniform(*self.scale) * self.side)
        top, left = (int(rng.integers(0, max(1, length - self.side + 1))) for length in image.shape[1:])
        box = _box(top, left, self.side, self.side)
        image, target = image[box], target[box]
        padding = (0, self.side - image.shape[2], 0, self.side - image.shape[1])
        image, target = F.pad(image, padding), F.pad(target, padding, value=self.ignored)
        return (image.flip(-1), flip(target)) if rng.random() < 0.5 else (image, target)


@dataclass(frozen=True)
class CenterView:
    """The center square of the image whose short side is `side`; never mirrored.

    With probability `zoom`, a square of some share of its area instead, resized; with probability `recolor`, jittered.
    """

    side: int
    zoom: float = 0.5
    area: tuple[float, float] = (0.5, 1.0)
    recolor: float = 0.8
    jitter: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2)  # brightness, contrast, saturation, hue

    def apply(self, example: Example, flip: Flip, rng: np.random.Generator) -> View:
        image, target = ValView(self.side, self.side).apply(example)
        if rng.random() < self.zoom:
            box = _box(*random_box(*size_of(image), self.area, (1.0, 1.0), rng))
            image, target = _resize(image[box], target[box], size_of(image))
        if rng.random() < self.recolor:
            image = _jitter(image, self.jitter, rng)
        return image, target


Augmentation = TrainView | ScaledCrop | CenterView  # makes an example a random square of `side` pixels


@dataclass(frozen=True)
class ValView:
    """The short side resized, then the center square cut out; sides in pixels; `antialias` as in `TrainView`."""

    short_side: int
    side: int
    antialias: bool = True

    def apply(self, example: Example) -> View:
        """Return image and target of the center square; an image smaller than the square keeps its size."""
        image, target = _scaled(example, self.short_side, self.antialias)
        top, left = ((length - min(length, self.side)) // 2 for length in image.shape[1:])
        box = _box(top, left, self.side, self.side)
        return image[box], target[box]


def flip_labels(target: Shaped[Tensor, "t h w"]) -> Shaped[Tensor, "t h w"]:
    """Mirror a target of labels, whose values do not depend on direction."""
    return target.flip(-1)


def check_size(array: np.ndarray, path: Path, what: str, image: np.ndarray, image_path: Path) -> None:
    """Raise LilaError where the height and width of an array differ from those of its image."""
    if array.shape[:2] != image.shape[:2]:
        raise LilaError(
            f"expected {what} of the image's size {image.shape[1]}×{image.shape[0]} ({image_path}), found "
            f"{array.shape[1]}×{array.shape[0]} in {path}; restore one of the two"
        )


def check_files(examples: Sequence[Files]) -> Sequence[Files]:
    """Return the examples; LilaError where a file is missing."""
    for path in (path for files in examples for path in files):
        if not path.is_file():
            raise LilaError(f"expected every listed image and its targets, found no {path}; restore the file")
    return examples


def generator(seed: int, *position: int) -> np.random.Generator:
    """Return random numbers that depend on the seed and on a position of up to three integers."""
    counter = [0, *position, *([0] * (3 - len(position)))]
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def random_box(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a box with a random share of the area and a random aspect ratio.

    The ratio (width over height) is uniform in its logarithm. After ten draws that do not fit, the largest centered box
    of an allowed ratio, as in torchvision's RandomResizedCrop.
    """
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def _box(top: int, left: int, height: int, width: int) -> tuple[slice, slice, slice]:
    return slice(None), slice(top, top + height), slice(left, left + width)


def _scaled(example: Example, short_side: float | int, antialias: bool = True) -> View:
    height, width = example.image.shape[1:]
    scale = short_side / min(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return _resize(example.image / 255, example.target, size, antialias)


def _resize(image: Float[Tensor, "3 a b"], target: Shaped[Tensor, "t a b"], size: Size, antialias: bool = True) -> View:
    resized = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=antialias)[0].clamp(0, 1)
    return resized, F.interpolate(target[None].double(), size, mode="nearest-exact")[0].to(target.dtype)


def _jitter(
    image: Float[Tensor, "3 h w"], strengths: tuple[float, ...], rng: np.random.Generator
) -> Float[Tensor, "3 h w"]:
    """Change brightness, contrast and saturation by factors in 1 ± strength, hue by ± strength turns; random order."""
    adjust = (v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation)
    for which in rng.permutation(len(strengths)):
        strength = strengths[which]
        if strength and which < len(adjust):
            image = adjust[which](image, rng.uniform(1 - strength, 1 + strength))
        elif strength:
            image = v2.functional.adjust_hue(image, rng.uniform(-strength, strength))
    return image.clamp(0, 1)
