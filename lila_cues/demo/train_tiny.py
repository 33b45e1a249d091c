"""Makes the weights of the tiny networks: `python -m lila_cues.demo.train_tiny --out lila_cues/weights`.

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
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import Tensor, nn

from lila_cues.demo.pretext import (
    VIEW,
    FrameBank,
    depth_loss,
    draw_crops,
    hidden_patches,
    jittered,
    picture_loss,
    rendered_bank,
    tokens,
    without,
)
from lila_cues.demo.seeds import Split
from lila_cues.networks import tiny
from lila_cues.networks.weights import file_sha256
from stores import console


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
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1)
    history: list[dict[str, float]] = []
    with console.progress("steps") as bar:
        task = bar.add_task(name, total=steps, rate=0.0)
        for step in range(steps):
            parts = losses(step)
            optimiser.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
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
