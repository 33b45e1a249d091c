"""What the tiny networks learn from: random views of rendered frames, and the losses on them.

The encoder sees images only, some of their patches hidden, and tells what every patch looks like (masked image
modelling: Xie et al., SimMIM, CVPR 2022). Nothing in it compares frames or crops: a dense contrast of crops was tried,
and is so near to following objects that a decoder of 300 steps did not improve on it by k-NN (J&F 87.7 and 87.0 on four
scenes). In so short a training the encoder learns to tell the patches that it sees (R² 0.90 of their pixels, 0.83
untrained), and nothing of the hidden ones: a weak encoder. The depth network learns from the renderer's depth.

Makes the weights of the tiny networks: `python -m lila_cues.demo.train_tiny --out lila_cues/weights`.

Renders scenes that no demo uses (they have streams of their own, whatever the seed), trains the encoder without labels
and the depth network on the renderer's depth, and checks the latter on further scenes. Ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.random import Generator
from safetensors.torch import save_file
from scipy.stats import spearmanr
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from lila_cues import console
from lila_cues.demo.dataset import SceneSeed, Split, shown_scene
from lila_cues.demo.geometry import Truth
from lila_cues.demo.render import paint
from lila_cues.networks import tiny
from lila_cues.networks.weights import file_sha256

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


@dataclass(frozen=True)
class TinyRecipe:
    """Everything that shapes the weights of the tiny networks; recorded beside them."""

    seed: int = 0
    scenes: int = 160
    check_scenes: int = 24
    encoder_steps: int = 800
    depth_steps: int = 400
    batch: int = 8
    encoder_rate: float = 2e-3
    depth_rate: float = 3e-3


def train_encoder(bank: FrameBank, recipe: TinyRecipe) -> tuple[nn.Module, dict[str, float]]:
    """The encoder after training, and its last losses (mean of the last tenth)."""
    torch.manual_seed(recipe.seed)
    encoder, head = tiny.encoder(), nn.Linear(tiny.WIDTH, 3 * tiny.PATCH_SIZE**2)

    def losses(step: int) -> dict[str, Tensor]:
        rng = _position(recipe, slot=1, step=step)
        frames = bank.rgb[torch.from_numpy(rng.integers(0, len(bank.rgb), recipe.batch))].float() / 255
        crops, _ = draw_crops(rng, recipe.batch, *frames.shape[-2:])
        images = jittered(rng, crops.cut(frames, VIEW))
        hidden = hidden_patches(rng, recipe.batch, VIEW // tiny.PATCH_SIZE)
        return {"picture": picture_loss(head(tokens(encoder, without(images, hidden))), images, hidden)}

    parameters = [*encoder.parameters(), *head.parameters()]
    return encoder, _fit("encoder", losses, parameters, recipe.encoder_rate, recipe.encoder_steps)


def train_depth(bank: FrameBank, recipe: TinyRecipe) -> tuple[nn.Module, dict[str, float]]:
    """The depth network after training, and its last loss."""
    torch.manual_seed(recipe.seed)
    network = tiny.depth()

    def losses(step: int) -> dict[str, Tensor]:
        rng = _position(recipe, slot=2, step=step)
        chosen = torch.from_numpy(rng.integers(0, len(bank.rgb), recipe.batch))
        frames, q = bank.rgb[chosen].float() / 255, bank.q[chosen][:, None]
        crop, _ = draw_crops(rng, recipe.batch, *frames.shape[-2:])
        images = jittered(rng, crop.cut(frames, VIEW))
        return {"depth": depth_loss(network(images), crop.cut(q, VIEW)[:, 0])}

    return network, _fit("depth", losses, list(network.parameters()), recipe.depth_rate, recipe.depth_steps)


def _fit(
    name: str, losses: Callable[[int], dict[str, Tensor]], parameters: list[nn.Parameter], rate: float, steps: int
) -> dict[str, float]:
    """AdamW with a short warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    history: list[dict[str, float]] = []
    with console.progress("steps") as bar:
        task = bar.add_task(name, total=steps, rate=0.0)
        for step in range(steps):
            parts = losses(step)
            optimizer.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            history.append({part: float(value.detach()) for part, value in parts.items()})
            bar.update(task, advance=1, rate=bar.tasks[task].speed or 0.0)
    tail = history[-max(1, steps // 10) :]
    return {part: float(np.mean([entry[part] for entry in tail])) for part in tail[0]}


def rank_correlation(network: nn.Module, bank: FrameBank) -> float:
    """Mean over frames of Spearman's correlation between estimated and true q, at full size."""
    scores = []
    with torch.inference_mode():
        for rgb, q in zip(bank.rgb, bank.q, strict=True):
            estimate = network(rgb[None].float() / 255)[0]
            scores.append(spearmanr(estimate.flatten()[::7], q.flatten()[::7]).statistic)
    return float(np.mean(scores))


def _position(recipe: TinyRecipe, slot: int, step: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=recipe.seed, counter=[0, 0, step, slot]))


def save(network: nn.Module, path: Path, made: dict[str, object]) -> dict[str, object]:
    """Write the weights in half precision; returns what is to be recorded of them."""
    tensors = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, path, metadata={"made": json.dumps(made)})
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size, "licence": tiny.LICENCE, **made}


def main(arguments: list[str] | None = None) -> None:
    """Train both, check, save, and say what came out."""
    parser = argparse.ArgumentParser(prog="python -m lila_cues.demo.train_tiny", description=__doc__)
    parser.add_argument("--out", type=Path, default=tiny.WEIGHTS, help="folder of the weight files")
    for name, value in asdict(TinyRecipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    chosen = vars(parser.parse_args(arguments))
    out: Path = chosen.pop("out")
    recipe = TinyRecipe(**chosen)
    out.mkdir(parents=True, exist_ok=True)
    command = f"python -m lila_cues.demo.train_tiny --seed {recipe.seed}"
    bank = rendered_bank(recipe.seed, Split.WEIGHTS, recipe.scenes)
    depth, depth_losses = train_depth(bank, recipe)
    encoder, encoder_losses = train_encoder(bank, recipe)
    check = rank_correlation(depth.eval(), rendered_bank(recipe.seed, Split.WEIGHTS_CHECK, recipe.check_scenes, 2))
    common: dict[str, object] = {"command": command, "recipe": asdict(recipe)}
    record = {
        tiny.ENCODER_WEIGHTS.name: save(
            encoder, out / tiny.ENCODER_WEIGHTS.name, {**common, "last_losses": encoder_losses}
        ),
        tiny.DEPTH_WEIGHTS.name: save(
            depth,
            out / tiny.DEPTH_WEIGHTS.name,
            {**common, "last_losses": depth_losses, "rank_correlation_on_new_scenes": check},
        ),
    }
    (out / tiny.RECORD.name).write_text(json.dumps(record, indent=2) + "\n")
    console.out.print(f"depth: rank correlation {check:.3f} on new scenes; losses {encoder_losses} {depth_losses}")


if __name__ == "__main__":
    main()
