"""A few validation images with their truth and what each head made of them, kept beside the figures to be looked at.

`examples/00012/{image,truth,HEAD}.png`: classes as indexed PNGs, directions as RGB, (n + 1)/2, black where unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from stores.pictures import write_label_png, write_png

SHOWN = 4
LONGEST_PX = 640

Stored = UInt8[np.ndarray, "h w *rgb"]


@dataclass(frozen=True)
class Drawn:
    """How targets and outputs of a protocol become arrays to be kept."""

    target: Callable[[Shaped[Tensor, "t h w"]], Stored]
    output: Callable[[Float[Tensor, "k h w"]], Stored]


@dataclass(frozen=True)
class Examples:
    """The folder of one evaluation's examples."""

    root: Path
    drawn: Drawn

    def keep(self, place: int, head: str, image: Tensor, target: Tensor, output: Tensor) -> None:
        """Of one image of the validation set: RGB in [0, 1], target and output of its size."""
        folder = self.root / f"{place:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        step = max(1, -(-max(image.shape[1:]) // LONGEST_PX))
        image, target, output = (values[..., ::step, ::step] for values in (image, target, output))
        write_png(folder / "image.png", (image * 255).round().byte().movedim(0, -1).cpu().numpy())
        _write(folder / "truth.png", self.drawn.target(target))
        _write(folder / f"{head}.png", self.drawn.output(output))


def places(count: int) -> list[int]:
    """Which images of a set are kept: four, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(SHOWN, count))})


def _write(path: Path, values: Stored) -> None:
    if values.ndim == 2:
        write_label_png(path, values)
    else:
        write_png(path, values)


def _classes(target: Shaped[Tensor, "1 h w"]) -> UInt8[np.ndarray, "h w"]:
    return target[0].to(torch.uint8).cpu().numpy()


def _largest(logits: Float[Tensor, "k h w"]) -> UInt8[np.ndarray, "h w"]:
    return logits.argmax(dim=0).to(torch.uint8).cpu().numpy()


def _directions(vectors: Float[Tensor, "k h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The first three channels at unit length; a fourth of a target says where they are known."""
    unit = F.normalize(vectors[:3], dim=0)
    stored = ((unit + 1) * 127.5).round().byte() * (vectors[:3].abs().sum(dim=0) > 0)
    return stored.movedim(0, -1).cpu().numpy()


CLASSES = Drawn(_classes, _largest)
DIRECTIONS = Drawn(_directions, _directions)
