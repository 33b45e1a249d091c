"""Images with a target per pixel: what a data set hands over, and the crops that probes are trained and measured on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torchvision.transforms import v2

from lila_train.model.resize import Size

Files = tuple[Path, ...]

WHOLE = 100_000
"""As the side of a view's square, in pixels: nothing of the image is cut off."""


@dataclass(frozen=True)
class Example:
    """An image and its target, channels first: a label per pixel, or a vector and whether it is known."""

    image: UInt8[Tensor, "3 H W"]
    target: Shaped[Tensor, "t H W"]


@dataclass(frozen=True)
class DenseData:
    """A data set, listed: the files of every example, and how they are read."""

    root: Path
    train: Sequence[Files]
    val: Sequence[Files]
    read: Callable[[Files], Example]
    about: dict[str, Any]  # what else decides the figures: layout, lists, classes


Mirror = Callable[[Shaped[Tensor, "t h w"]], Shaped[Tensor, "t h w"]]


@runtime_checkable
class Augmentation(Protocol):
    """How a training example becomes a square of `side`: image in [0, 1] and target."""

    @property
    def side(self) -> int:
        """Of the square, in pixels."""
        ...

    def taken(self, example: Example, mirror: Mirror, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """`mirror` turns a target over with its image."""
        ...


@dataclass(frozen=True)
class TrainView:
    """A random crop of some share of the area, resized to a square, mirrored every other time."""

    side: int
    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)  # brightness, contrast, saturation

    def taken(
        self, example: Example, mirror: Mirror, draw: np.random.Generator
    ) -> tuple[Float[Tensor, "3 s s"], Shaped[Tensor, "t s s"]]:
        """A box of the image, by `random_box`."""
        top, left, height, width = random_box(example.image.shape[1], example.image.shape[2], self, draw)
        box = (slice(None), slice(top, top + height), slice(left, left + width))
        image, target = _resized(example.image[box], example.target[box], (self.side, self.side))
        if draw.random() < 0.5:
            image, target = image.flip(-1), mirror(target)
        return _jittered(image, self.jitter, draw), target


@dataclass(frozen=True)
class ValView:
    """The short side resized, then the centre square cut out."""

    short_side: int
    side: int


@dataclass(frozen=True)
class ScaledCrop:
    """A random square of the image, whose short side is `side` times a random factor; mirrored every other time.

    Where the image is the smaller one it is padded: black, and `ignored` in the target.
    """

    side: int
    scale: tuple[float, float] = (0.5, 2.0)
    ignored: int = 255

    def taken(
        self, example: Example, mirror: Mirror, draw: np.random.Generator
    ) -> tuple[Float[Tensor, "3 s s"], Shaped[Tensor, "t s s"]]:
        """Scale, place and mirroring are drawn in this order."""
        height, width = example.image.shape[1:]
        factor = draw.uniform(*self.scale) * self.side / min(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        image, target = _resized(example.image, example.target, size)
        top, left = (int(draw.integers(0, max(1, length - self.side + 1))) for length in size)
        box = (slice(None), slice(top, top + self.side), slice(left, left + self.side))
        image, target = image[box], target[box]
        beyond = (0, self.side - image.shape[2], 0, self.side - image.shape[1])
        image, target = F.pad(image, beyond), F.pad(target, beyond, value=self.ignored)
        return (image.flip(-1), mirror(target)) if draw.random() < 0.5 else (image, target)


@dataclass(frozen=True)
class CentreView:
    """The centre square of the image whose short side is `side`; never mirrored.

    With probability `zoomed`, a square of some share of its area instead, resized; with `coloured`, in other colours.
    """

    side: int
    zoomed: float = 0.5
    area: tuple[float, float] = (0.5, 1.0)
    coloured: float = 0.8
    jitter: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2)

    def taken(
        self, example: Example, mirror: Mirror, draw: np.random.Generator
    ) -> tuple[Float[Tensor, "3 s s"], Shaped[Tensor, "t s s"]]:
        """As on the validation set, but for zoom and colours."""
        image, target = val_view(example, ValView(self.side, self.side))
        if draw.random() < self.zoomed:
            height, width = image.shape[1:]
            top, left, h, w = random_box(height, width, TrainView(self.side, self.area, (1.0, 1.0)), draw)
            box = (slice(None), slice(top, top + h), slice(left, left + w))
            image = F.interpolate(image[box][None], (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)
            target = _nearest(target[box], (height, width))
        if draw.random() < self.coloured:
            image = _jittered(image, self.jitter, draw)
        return image, target


def val_view(example: Example, view: ValView) -> tuple[Float[Tensor, "3 h w"], Shaped[Tensor, "t h w"]]:
    """Image in [0, 1] and target of the centre square; an image too small for it is as large as it is."""
    height, width = example.image.shape[1:]
    scale = view.short_side / min(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    image, target = _resized(example.image, example.target, size)
    top, left = ((length - min(length, view.side)) // 2 for length in size)
    box = (slice(None), slice(top, top + view.side), slice(left, left + view.side))
    return image[box], target[box]


def random_box(height: int, width: int, view: TrainView, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a box with a random share of the area and aspect (uniform in its logarithm).

    After ten draws that do not fit, the largest centred box of an allowed aspect, as torchvision has it.
    """
    for _ in range(10):
        area = height * width * draw.uniform(*view.area)
        ratio = math.exp(draw.uniform(math.log(view.ratio[0]), math.log(view.ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draw.integers(0, height - h + 1)), int(draw.integers(0, width - w + 1)), h, w
    ratio = min(max(width / height, view.ratio[0]), view.ratio[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (height - h) // 2, (width - w) // 2, h, w


def same_pixels_mirrored(target: Shaped[Tensor, "t h w"]) -> Shaped[Tensor, "t h w"]:
    """The mirrored target of labels, whose values do not depend on direction."""
    return target.flip(-1)


def generator(seed: int, *position: int) -> np.random.Generator:
    """Random numbers as a function of the seed and of a position of up to three whole numbers."""
    counter = [0, *position, *([0] * (3 - len(position)))]
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def _resized(
    image: UInt8[Tensor, "3 a b"], target: Shaped[Tensor, "t a b"], size: Size
) -> tuple[Float[Tensor, "3 h w"], Shaped[Tensor, "t h w"]]:
    resized = F.interpolate(image[None].float() / 255, size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].clamp(0, 1), _nearest(target, size)


def _nearest(target: Shaped[Tensor, "t a b"], size: Size) -> Shaped[Tensor, "t h w"]:
    return F.interpolate(target[None].double(), size, mode="nearest-exact")[0].to(target.dtype)


def _jittered(
    image: Float[Tensor, "3 h w"], strengths: tuple[float, ...], draw: np.random.Generator
) -> Float[Tensor, "3 h w"]:
    """Brightness, contrast and saturation in random order, each by a factor of 1 ± its strength; hue by ± a turn's."""
    adjust = (v2.functional.adjust_brightness, v2.functional.adjust_contrast, v2.functional.adjust_saturation)
    for which in draw.permutation(len(strengths)):
        strength = strengths[which]
        if strength and which < len(adjust):
            image = adjust[which](image, draw.uniform(1 - strength, 1 + strength))
        elif strength:
            image = v2.functional.adjust_hue(image, draw.uniform(-strength, strength))
    return image.clamp(0, 1)


def stacked(views: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Images b×3×s×s and targets b×t×s×s on the device, from views of one size."""
    images, targets = zip(*views, strict=True)
    return torch.stack(images).to(device), torch.stack(targets).to(device)
