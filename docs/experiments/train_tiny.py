"""Train the two tiny networks of the demo: `python docs/experiments/train_tiny.py --out lila_cues/weights`.

Renders scenes that no demo uses (they have random streams of their own, whatever the seed), trains the encoder without
labels and the depth network on the renderer's depth, and validates the latter on further scenes. Ten minutes on one
core. `lila_cues/weights/tiny.json` is the record of the shipped weights; the metadata within the files still names
`lila_cues.demo.train_tiny`, where this script was when it made them.

The encoder sees images with some patches hidden and predicts the pixels of every patch (masked image modeling: Xie et
al., SimMIM, CVPR 2022). Nothing in it compares frames or crops: a dense contrast of crops was tried, and is so near to
following objects that a decoder of 300 steps did not improve on it by k-NN (J&F 87.7 and 87.0 on four scenes). In so
short a training the encoder learns to encode the patches that it sees (R² 0.90 of their pixels, 0.83 untrained), and
nothing of the hidden ones: a weak encoder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from lila_cues import console
from lila_cues.demo.dataset import SceneSeed, Split, visible_scene
from lila_cues.demo.scenes import Truth, render_frame
from lila_cues.networks import tiny
from lila_cues.networks.weights import file_sha256

CLIP_FRAMES = 24
VIEW = 112  # side in pixels; 14 patches
SIDES_PX = (90.0, 240.0)  # of the crop that becomes a view: objects then appear at 0.5 to 1.2 times their size
HIDDEN = 0.5  # share of hidden patches
VISIBLE_WEIGHT = 0.2  # of the loss on visible patches


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the weights; recorded beside them."""

    seed: int = 0
    scenes: int = 160
    check_scenes: int = 24
    encoder_steps: int = 800
    depth_steps: int = 400
    batch: int = 8
    encoder_rate: float = 2e-3
    depth_rate: float = 3e-3


def main(arguments: list[str] | None = None) -> None:
    """Train both networks, validate, save the weights and their record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=tiny.RECORD.parent, help="folder for the weight files (default: %(default)s)"
    )
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="default: %(default)s")
    options = vars(parser.parse_args(arguments))
    out: Path = options.pop("out")
    recipe = Recipe(**options)
    out.mkdir(parents=True, exist_ok=True)
    rgb, q = render_frames(recipe.seed, Split.WEIGHTS, recipe.scenes, 4)
    depth, depth_losses = train_depth(rgb, q, recipe)
    encoder, encoder_losses = train_encoder(rgb, recipe)
    check = rank_correlation(depth.eval(), *render_frames(recipe.seed, Split.WEIGHTS_CHECK, recipe.check_scenes, 2))
    command = f"python docs/experiments/train_tiny.py --seed {recipe.seed}"
    common = {"command": command, "recipe": asdict(recipe)}
    depth_record = {**common, "last_losses": depth_losses, "rank_correlation_on_new_scenes": check}
    record = {
        tiny.ENCODER_WEIGHTS.name: save(
            encoder, out / tiny.ENCODER_WEIGHTS.name, {**common, "last_losses": encoder_losses}
        ),
        tiny.DEPTH_WEIGHTS.name: save(depth, out / tiny.DEPTH_WEIGHTS.name, depth_record),
    }
    (out / tiny.RECORD.name).write_text(json.dumps(record, indent=2) + "\n")
    console.out.print(f"depth: rank correlation {check:.3f} on new scenes; losses {encoder_losses} {depth_losses}")


def save(network: nn.Module, path: Path, made: dict[str, object]) -> dict[str, object]:
    """Write the weights in half precision; return their record."""
    tensors = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, path, metadata={"made": json.dumps(made)})
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size, "licence": "apache-2.0", **made}


# --- frames and views ---------------------------------------------------------------------------------------------


def render_frames(seed: int, split: Split, scenes: int, frames_per_scene: int) -> tuple[Tensor, Tensor]:
    """Return evenly spread frames of many scenes, uint8 n×3×y×x, with their relative inverse depth q, n×y×x."""
    rgb, q = [], []
    for index in range(scenes):
        scene = visible_scene(SceneSeed(seed, split, index), CLIP_FRAMES)
        for t in np.linspace(0, CLIP_FRAMES - 1, frames_per_scene).astype(int).tolist():
            picture, layers = render_frame(scene, t)
            truth = Truth(layers[None], scene.homographies(t)[None], np.array(scene.labels, np.uint8))
            rgb.append(torch.from_numpy(picture).permute(2, 0, 1))
            q.append(torch.from_numpy(truth.depth(0)))
    return torch.stack(rgb), torch.stack(q)


@dataclass(frozen=True)
class Crops:
    """Squares of frames, in units in which a frame covers [−1, 1]²."""

    center: Tensor  # b×2, x first
    half: Tensor  # b×2, half the side
    mirror: Tensor  # b, −1 for a mirrored view, else 1

    def to_frame(self, points: Tensor) -> Tensor:
        """Map view coordinates b×p×2 in [−1, 1] (x, y) to frame coordinates in [−1, 1]."""
        flip = torch.stack([self.mirror, torch.ones_like(self.mirror)], dim=-1)
        return self.center[:, None] + points * (self.half * flip)[:, None]

    def cut(self, frames: Tensor, size: int) -> Tensor:
        """Return the crops of b×c×y×x, resized bilinearly to b×c×size×size."""
        points = self.to_frame(view_grid(size).expand(len(frames), -1, -1))
        return functional.grid_sample(frames, points.unflatten(1, (size, size)), align_corners=False)


def view_grid(cells: int) -> Tensor:
    """Return the centers (x, y) of cells × cells squares that fill [−1, 1]², row by row: 1×p×2."""
    axis = (torch.arange(cells) + 0.5) * 2 / cells - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(1, -1, 2)


def draw_crops(rng: Generator, count: int, height: int, width: int) -> Crops:
    """Draw a square per frame, inside it, mirrored or not."""
    sides = rng.uniform(*SIDES_PX, count)
    rng.uniform(-0.45, 0.45, count)  # was the scale of a second, overlapping square; keeps the stream
    place = rng.uniform(0, 1, (count, 2))
    rng.uniform(-0.2, 0.2, (count, 2))  # was its offset
    mirror = rng.choice([-1.0, 1.0], (2, count))[0]
    half = sides[:, None] / np.array([width, height])
    center = (2 * place - 1) * (1 - half)
    return Crops(*(torch.from_numpy(a).float() for a in (center, half, mirror)))


def draw_views(rng: Generator, rgb: Tensor, q: Tensor | None, batch: int) -> tuple[Tensor, Tensor | None]:
    """Draw augmented views of random frames, b×3×112×112 in [0, 1], and of their q, b×112×112."""
    chosen = torch.from_numpy(rng.integers(0, len(rgb), batch))
    frames = rgb[chosen].float() / 255
    crops = draw_crops(rng, batch, *frames.shape[-2:])
    images = jittered(rng, crops.cut(frames, VIEW))
    return images, None if q is None else crops.cut(q[chosen][:, None], VIEW)[:, 0]


def jittered(rng: Generator, images: Tensor) -> Tensor:
    """Change contrast, tint and brightness of b×3×y×x in [0, 1]."""
    count = len(images)
    contrast = torch.from_numpy(rng.uniform(0.75, 1.25, (count, 1, 1, 1))).float()
    tint = torch.from_numpy(rng.uniform(0.88, 1.12, (count, 3, 1, 1))).float()
    light = torch.from_numpy(rng.uniform(-0.08, 0.08, (count, 1, 1, 1))).float()
    return ((images - 0.5) * contrast * tint + 0.5 + light).clamp(0, 1)


# --- the encoder --------------------------------------------------------------------------------------------------


def train_encoder(rgb: Tensor, recipe: Recipe) -> tuple[nn.Module, dict[str, float]]:
    """Return the trained encoder and its mean losses over the last tenth of the steps."""
    torch.manual_seed(recipe.seed)
    encoder, head = tiny.encoder(), nn.Linear(tiny.WIDTH, 3 * tiny.PATCH_SIZE**2)

    def loss(rng: Generator) -> Tensor:
        images, _ = draw_views(rng, rgb, None, recipe.batch)
        hidden = hidden_patches(rng, recipe.batch, VIEW // tiny.PATCH_SIZE)
        return patch_loss(head(tokens(encoder, hide(images, hidden))), images, hidden)

    parameters = [*encoder.parameters(), *head.parameters()]
    last = fit("encoder", loss, parameters, recipe.encoder_rate, recipe.encoder_steps, recipe.seed, slot=1)
    return encoder, {"picture": last}


def tokens(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the last block's patch features, b×p×c, of b×3×y×x in [0, 1]."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (tiny.MEAN, tiny.STD))
    return encoder.forward_features((images - mean) / std)


def hidden_patches(rng: Generator, count: int, cells: int) -> Tensor:
    """Draw the hidden patches of each image, each with probability `HIDDEN`: bool b×p."""
    return torch.from_numpy(rng.random((count, cells * cells)) < HIDDEN)


def hide(images: Tensor, hidden: Tensor) -> Tensor:
    """Fill hidden patches with the image's mean color."""
    cells = images.shape[-1] // tiny.PATCH_SIZE
    mask = functional.interpolate(hidden.float().unflatten(1, (1, cells, cells)), scale_factor=float(tiny.PATCH_SIZE))
    return torch.lerp(images, images.mean(dim=(2, 3), keepdim=True), mask)


def patch_loss(predicted: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean absolute error of hidden and, with less weight, visible patches, relative to the mean color."""
    relative = 2 * (images - images.mean(dim=(2, 3), keepdim=True))
    target = functional.unfold(relative, tiny.PATCH_SIZE, stride=tiny.PATCH_SIZE).transpose(1, 2)
    error = (predicted - target).abs().mean(dim=-1)
    return error[hidden].mean() + VISIBLE_WEIGHT * error[~hidden].mean()


# --- the depth network --------------------------------------------------------------------------------------------


def train_depth(rgb: Tensor, q: Tensor, recipe: Recipe) -> tuple[nn.Module, dict[str, float]]:
    """Return the trained depth network and its mean loss over the last tenth of the steps."""
    torch.manual_seed(recipe.seed)
    network = tiny.DepthCNN()

    def loss(rng: Generator) -> Tensor:
        images, q_view = draw_views(rng, rgb, q, recipe.batch)
        return depth_loss(network(images), q_view)

    parameters = list(network.parameters())
    last = fit("depth", loss, parameters, recipe.depth_rate, recipe.depth_steps, recipe.seed, slot=2)
    return network, {"depth": last}


def depth_loss(q: Tensor, truth: Tensor) -> Tensor:
    """Return the mean absolute difference of ln q, and of its gradients, for b×y×x."""
    error = q.log() - truth.log()
    gradients = (error.diff(dim=2).abs().mean() + error.diff(dim=1).abs().mean()) / 2
    return error.abs().mean() + 2 * gradients


def rank_correlation(network: nn.Module, rgb: Tensor, q: Tensor) -> float:
    """Return the mean over frames of Spearman's correlation between predicted and true q, at full size."""
    scores = []
    with torch.inference_mode():
        for image, truth in zip(rgb, q, strict=True):
            predicted = network(image[None].float() / 255)[0]
            scores.append(spearmanr(predicted.flatten()[::7], truth.flatten()[::7]).statistic)
    return float(np.mean(scores))


def fit(
    name: str,
    loss: Callable[[Generator], Tensor],
    parameters: list[nn.Parameter],
    rate: float,
    steps: int,
    seed: int,
    slot: int,
) -> float:
    """Minimize by AdamW with a short warm-up and a cosine to zero; return the mean loss of the last tenth of the steps.

    The random numbers of a step are a function of (seed, slot, step).
    """
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    history = []
    with console.progress("steps") as bar:
        for step in bar.track(range(steps), description=name):
            value = loss(np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, step, slot])))
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            history.append(value.item())
    return float(np.mean(history[-max(1, steps // 10) :]))


if __name__ == "__main__":
    main()
