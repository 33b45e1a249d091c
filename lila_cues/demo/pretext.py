"""What the tiny networks learn from: random views of rendered frames, and the losses on them.

The encoder sees images only, some of their patches hidden, and tells what every patch looks like (masked image
modelling: Xie et al., SimMIM, CVPR 2022). Nothing in it compares frames or crops: a dense contrast of crops was tried,
and is so near to following objects that a decoder of 300 steps did not improve on it by k-NN (J&F 87.7 and 87.0 on four
scenes). In so short a training the encoder learns to tell the patches that it sees (R² 0.90 of their pixels, 0.83
untrained), and nothing of the hidden ones: a weak encoder. The depth network learns from the renderer's depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.random import Generator
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from lila_cues.demo.raster import paint
from lila_cues.demo.seeds import SceneSeed, Split
from lila_cues.demo.selection import shown_scene
from lila_cues.demo.truth import Truth
from lila_cues.networks import tiny

VIEW = 112  # pixels a side; 14 patches
SIDES_PX = (90.0, 240.0)  # of the crop that becomes a view: objects then appear at 0.5 to 1.2 times their size
HIDDEN = 0.5  # share of the patches that the encoder does not see
SEEN_WEIGHT = 0.2  # of telling a patch that it does see


@dataclass(frozen=True)
class FrameBank:
    """Rendered frames with their relative inverse depth q = 100 / z, z in metres."""

    rgb: UInt8[Tensor, "n 3 y x"]
    q: Float[Tensor, "n y x"]


def rendered_bank(seed: int, split: Split, scenes: int, frames_per_scene: int = 4, length: int = 24) -> FrameBank:
    """Some frames of each of many scenes, evenly spread over clips of `length` frames."""
    rgb, q = [], []
    for index in range(scenes):
        scene = shown_scene(SceneSeed(seed, split, index), length)
        for t in np.linspace(0, length - 1, frames_per_scene).astype(int).tolist():
            picture, seen = paint(scene, t)
            views = np.array([[layer.motion.homography(scene.camera, t) for layer in scene.layers]])
            truth = Truth(layers=seen[None], homographies=views, labels=np.array(scene.labels, np.uint8))
            rgb.append(torch.from_numpy(picture).permute(2, 0, 1))
            q.append(torch.from_numpy(truth.depth(0)))
    return FrameBank(rgb=torch.stack(rgb), q=torch.stack(q))


# --- views --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crops:
    """Squares of frames, in units in which a frame covers [−1, 1]²; `mirror` is −1 for a mirrored view, else 1."""

    centre: Float[Tensor, "b 2"]
    half: Float[Tensor, "b 2"]
    mirror: Float[Tensor, " b"]

    def to_frame(self, points: Float[Tensor, "b p 2"]) -> Float[Tensor, "b p 2"]:
        """From view coordinates in [−1, 1] (x, y) to frame coordinates in [−1, 1]."""
        return self.centre[:, None] + points * self._scale()

    def cut(self, frames: Float[Tensor, "b c y x"], size: int) -> Float[Tensor, "b c size size"]:
        """The crops, resized bilinearly."""
        points = self.to_frame(view_grid(size).expand(len(frames), -1, -1))
        return functional.grid_sample(frames, points.unflatten(1, (size, size)), align_corners=False)

    def _scale(self) -> Tensor:
        return self.half[:, None] * torch.stack([self.mirror, torch.ones_like(self.mirror)], dim=-1)[:, None]


def view_grid(cells: int) -> Float[Tensor, "1 p 2"]:
    """The centres of cells × cells squares that fill [−1, 1]², row by row, as (x, y)."""
    axis = (torch.arange(cells) + 0.5) * 2 / cells - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(1, -1, 2)


def draw_crops(rng: Generator, count: int, height: int, width: int) -> tuple[Crops, Crops]:
    """Two overlapping squares per frame, of different size, inside the frame, each mirrored or not."""
    first = rng.uniform(*SIDES_PX, count)
    second = np.clip(first * np.exp(rng.uniform(-0.45, 0.45, count)), *SIDES_PX)
    place = rng.uniform(0, 1, (count, 2))
    nearby = np.clip(place + rng.uniform(-0.2, 0.2, (count, 2)), 0, 1)
    size = np.array([width, height])
    mirrors = rng.choice([-1.0, 1.0], (2, count))
    return _squares(first, place, size, mirrors[0]), _squares(second, nearby, size, mirrors[1])


def _squares(sides: np.ndarray, place: np.ndarray, size: np.ndarray, mirror: np.ndarray) -> Crops:
    half = sides[:, None] / size
    centre = (2 * place - 1) * (1 - half)
    return Crops(*(torch.from_numpy(a).float() for a in (centre, half, mirror)))


def jittered(rng: Generator, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b 3 y x"]:
    """Another light: contrast, brightness, and a tint."""
    count = len(images)
    contrast = torch.from_numpy(rng.uniform(0.75, 1.25, (count, 1, 1, 1))).float()
    tint = torch.from_numpy(rng.uniform(0.88, 1.12, (count, 3, 1, 1))).float()
    light = torch.from_numpy(rng.uniform(-0.08, 0.08, (count, 1, 1, 1))).float()
    return ((images - 0.5) * contrast * tint + 0.5 + light).clamp(0, 1)


# --- the encoder's losses -----------------------------------------------------------------------------------------


def tokens(encoder: VisionTransformer, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b p c"]:
    """Patch features of the last block for RGB in [0, 1]."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (tiny.MEAN, tiny.STD))
    return encoder.forward_features((images - mean) / std)


def hidden_patches(rng: Generator, count: int, cells: int) -> Bool[Tensor, "b p"]:
    """Which patches of each image are hidden, each with the chance `HIDDEN`."""
    return torch.from_numpy(rng.random((count, cells * cells)) < HIDDEN)


def without(images: Float[Tensor, "b 3 y x"], hidden: Bool[Tensor, "b p"]) -> Float[Tensor, "b 3 y x"]:
    """The images with hidden patches in the image's mean colour."""
    cells = images.shape[-1] // tiny.PATCH_SIZE
    mask = functional.interpolate(hidden.float().unflatten(1, (1, cells, cells)), scale_factor=float(tiny.PATCH_SIZE))
    return torch.lerp(images, images.mean(dim=(2, 3), keepdim=True), mask)


def picture_loss(
    told: Float[Tensor, "b p n"], images: Float[Tensor, "b 3 y x"], hidden: Bool[Tensor, "b p"]
) -> Float[Tensor, ""]:
    """Mean absolute error of the pixels of hidden patches, and with less weight of seen ones, about the mean colour."""
    away = 2 * (images - images.mean(dim=(2, 3), keepdim=True))
    wanted = functional.unfold(away, tiny.PATCH_SIZE, stride=tiny.PATCH_SIZE).transpose(1, 2)
    error = (told - wanted).abs().mean(dim=-1)
    return error[hidden].mean() + SEEN_WEIGHT * error[~hidden].mean()


# --- the depth network's loss -------------------------------------------------------------------------------------


def depth_loss(q: Float[Tensor, "b y x"], truth: Float[Tensor, "b y x"]) -> Float[Tensor, ""]:
    """Mean absolute difference of ln q, and of its steps to the right and down."""
    error = q.log() - truth.log()
    steps = (error.diff(dim=2).abs().mean() + error.diff(dim=1).abs().mean()) / 2
    return error.abs().mean() + 2 * steps
