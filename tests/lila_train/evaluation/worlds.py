"""A small rendered world in the DAVIS layout, and models whose features are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HEIGHT, WIDTH = 48, 64
COLORS = np.array([[20, 30, 40], [220, 40, 30], [30, 60, 230]], np.uint8)


def moving_squares(count: int) -> list[np.ndarray]:
    """Labels of two squares that move apart by two pixels a frame."""
    frames = []
    for n in range(count):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[8:24, 30 + 2 * n : 46 + 2 * n] = 1
        labels[26:42, 20 - 2 * n : 36 - 2 * n] = 2
        frames.append(labels)
    return frames


def write_davis(root: Path, names: tuple[str, ...] = ("one", "two"), count: int = 5) -> Path:
    """Write sequences whose colors are their labels, in the 2017 layout."""
    for name in names:
        frames, masks = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for n, labels in enumerate(moving_squares(count)):
            Image.fromarray(COLORS[labels]).save(frames / f"{n:05d}.jpg", quality=100, subsampling=0)
            picture = Image.fromarray(labels)
            picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            picture.save(masks / f"{n:05d}.png")
    listed = root / "ImageSets/2017/val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(names))
    return root


@dataclass(frozen=True)
class ColorModel:
    """Pixel features are the centered colors; the encoder's grid is their mean over patches."""

    patch_size: int = 4
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    head: str = "lila"

    def encoder_grid(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(self.pixel_map(images), self.patch_size)

    def encoder_taps(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.encoder_grid(images),) * 4

    def pixel_map(self, images: torch.Tensor) -> torch.Tensor:
        return images - 0.4

    def describe(self) -> dict[str, object]:
        return {"name": "colours"}
