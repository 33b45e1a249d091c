"""A small rendered world in the DAVIS layout, and models whose features are known in closed form."""

from __future__ import annotations

import json
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


def write_spair(root: Path, pairs: list[tuple[str, list, list]], size: tuple[int, int] = (40, 60)) -> Path:
    """Write pairs of noise images in the layout of SPair-71k: category, points in the source, points in the target.

    Around each pair of points both images have the same square of one color; the target's box is 50 px wide.
    """
    (root / "PairAnnotation/test").mkdir(parents=True)
    (root / "Layout/large").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n, (category, source, target) in enumerate(pairs):
        colors = rng.integers(0, 256, (len(source), 3))
        (root / "JPEGImages" / category).mkdir(parents=True, exist_ok=True)
        for end, points in (("s", source), ("t", target)):
            image = rng.integers(100, 156, (*size, 3)).astype(np.uint8)
            for (x, y), color in zip(points, colors, strict=True):
                image[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3] = color
            Image.fromarray(image).save(root / f"JPEGImages/{category}/{n}{end}.jpg", quality=100, subsampling=0)
        content = {"category": category, "src_imname": f"{n}s.jpg", "trg_imname": f"{n}t.jpg"}
        content |= {"src_kps": source, "trg_kps": target, "trg_bndbox": [4, 5, 54, 35]}
        (root / f"PairAnnotation/test/{n}:{category}.json").write_text(json.dumps(content))
    (root / "Layout/large/test.txt").write_text("".join(f"{n}:{pair[0]}\n" for n, pair in enumerate(pairs)))
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
