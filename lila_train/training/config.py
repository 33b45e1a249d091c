"""Settings of a training run: everything that shapes its result (TrainConfig) and what does not (RunOptions).

Defaults are the paper's where it states them (docs/method.md). Recipes are named configs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from stores.config import MAX_SEED, Config
from stores.errors import LilaError, did_you_mean

FLOW, DEPTH, NORMALS, FEATURES = "flow", "depth", "normals", "features"


def _area_range(area: tuple[float, float]) -> tuple[float, float]:
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"must be two area fractions, 0 < low ≤ high ≤ 1, found {area[0]:g},{area[1]:g}")
    return area


AreaRange = Annotated[tuple[float, float], AfterValidator(_area_range)]


class TrainConfig(Config):
    """What shapes a training run: optimization, pairs and crops, targets, objective."""

    own_options: ClassVar[frozenset[str]] = frozenset(
        ("steps", "seed", "batch_size", "lr", "precision", "crop_size", "shuffle")
    )

    steps: PositiveInt = Field(description="Optimizer steps.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of weights and sampling.")
    batch_size: PositiveInt = Field(32, description="Pairs per step, over all ranks.")
    lr: PositiveFloat = Field(1e-4, description="AdamW learning rate.")
    weight_decay: NonNegativeFloat = Field(1e-5, description="AdamW weight decay.")
    schedule: Literal["constant", "cosine", "step"] = Field(
        "constant", description="Learning rate after the warm-up; step: × 0.99 every 10,000 steps (reference code)."
    )
    warmup_steps: NonNegativeInt = Field(0, description="Steps of linear warm-up.")
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay of a moving average of the decoder, which is scored and exported; 0: none."
    )
    clip_norm: PositiveFloat | None = Field(None, description="Largest norm of the gradient; none: any.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of encoder and decoder; solve and losses are float32."
    )
    init: Literal["default", "pca"] = Field(
        "default",
        description="Initial decoder: PyTorch's default, or a linear upsampler of the principal components of step 0.",
    )
    decoder_width: PositiveInt | None = Field(
        None, description="Inner width of the decoder, twice that of a feature; none: as published."
    )

    crop_size: PositiveInt = Field(224, description="Side of a view in pixels, a multiple of the encoder's patch.")
    max_gap: PositiveInt = Field(5, description="Largest distance of a pair's frames, in source frames.")
    context_area: AreaRange = Field((0.8, 0.8), description="Area of the context, in parts of the base crop's square.")
    query_area: AreaRange = Field((0.3, 1.0), description="Area of the query.")
    base_hflip: float = Field(
        0.5, ge=0, le=1, description="Probability of flipping both views, and the sign of u and n_x."
    )
    query_hflip: float = Field(0.5, ge=0, le=1, description="Probability of flipping the query once more.")
    same_region: bool = Field(False, description="The query's region is the context's (ablation C).")

    shuffle: Literal["auto", "uniform", "blocks"] = Field(
        "auto",
        description="Draw clips from all, or from 256 shards for some hundred steps, then from others: fewer files are "
        "opened. auto: blocks above 10,000 clips.",
    )

    cues: tuple[str, ...] = Field((FLOW, DEPTH, FEATURES), description="Regression targets: targets.CUES.")
    channels: PositiveInt = Field(32, description="Encoder channels sampled per pair as targets.")
    distilled: Literal["refined", "raw", "online"] = Field(
        "refined",
        description="Features to distill: stored after PAMR; as the encoder gave them (ablation B); the view's own, "
        "refined in the step (reference code).",
    )
    roles: Literal["forward", "mirrored"] = Field(
        "forward", description="The context is the earlier frame (paper), or the later one (reference code)."
    )

    objective: Literal["in-context", "erm"] = Field(
        "in-context",
        description="Fit a linear map on the context and score it on the query, or learn one linear head (ablation A).",
    )
    cells: PositiveInt = Field(32, description="Side of the grid on which the map is fitted.")
    ridge: PositiveFloat = Field(0.1, description="Regularization strength of the fit.")
    solver: Literal["cholesky", "lu"] = Field("cholesky", description="Factorization of the normal equations.")
    detach: bool = Field(False, description="Stop the gradient through the fitted map.")
    l1_weight: NonNegativeFloat = Field(1.0, description="Weight of the L1 loss (losses.LOSS_TERMS).")
    edge_weight: NonNegativeFloat = Field(1.0, description="Weight of the edge loss.")
    edge_sigma: PositiveFloat = Field(0.1, description="σ of the edge loss.")
    edge_form: Literal["absolute", "signed"] = Field(
        "absolute", description="Compare magnitudes of gradients (reference code), or the gradients (paper)."
    )

    @property
    def frames(self) -> tuple[int, int]:
        """Frame of a pair (0: t, 1: t+Δ) that is the context, and that is the query."""
        return (0, 1) if self.roles == "forward" else (1, 0)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step: linear warm-up from 1/w of it, then constant, in steps, or half a cosine to 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.schedule != "cosine":
            return self.lr * (0.99 ** (step // 10_000) if self.schedule == "step" else 1)
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class RunOptions:
    """Execution of a run; nothing here changes its result beyond rounding. Intervals are in steps."""

    device: str = "auto"
    backend: str | None = None  # of collectives; None: NCCL on GPUs, gloo on CPUs
    join_timeout: float = 600.0  # seconds to wait for the other ranks
    overwrite: bool = False
    encoder_weights: Path | None = None  # where the encoder's weight file is now
    num_workers: int | None = None  # loader processes; None: automatic; 0: load in the main process
    device_batch_size: int | None = None  # most pairs of one forward pass; None: a rank's share of the batch
    compile: bool = False
    checkpoint_every: int = 1000
    pictures_every: int = 500  # 0: none
    loggers: tuple[str, ...] = ()  # beside log.jsonl and TensorBoard
    score_data: Path | None = None  # held-out clips with masks, in the DAVIS layout
    score_every: int = 5000
    score_limit: int = 3  # number of clips to score on


@dataclass(frozen=True)
class Recipe:
    """A named config, the hardware that it needs and the result to expect."""

    config: TrainConfig
    hardware: str
    expect: str


_PAPER = TrainConfig(steps=100_000)

# Published results are DAVIS-2017 val J&F by linear probe and by local k-NN (the paper's tables).
RECIPES = {
    "s14-youtube-vos": Recipe(
        _PAPER,
        hardware="one GPU; the reference trains in float32",
        expect="published: DAVIS J&F 68.6 by linear probe, 73.9 by k-NN",
    ),
    "reference-s14-ytvos": Recipe(
        _PAPER.replace(weight_decay=1e-4, schedule="step", roles="mirrored", distilled="online"),
        hardware="one GPU, float32; cues by --depth depth_anything_v2_large, whose license forbids commercial use",
        expect="no published result of its own: the published code's settings where they differ from the paper",
    ),
    "b14-youtube-vos": Recipe(
        _PAPER, hardware="one GPU", expect="published: DAVIS J&F 70.4 by linear probe, 74.2 by k-NN"
    ),
    "l14-kinetics": Recipe(
        _PAPER,
        hardware="eight GPUs, as in the names of the reference's runs; fewer take the same steps more slowly",
        expect="published: DAVIS J&F 69.3 by linear probe, 74.9 by k-NN",
    ),
    "demo": Recipe(
        TrainConfig(steps=150, batch_size=4, lr=1e-3, decoder_width=64, crop_size=112, max_gap=4),
        hardware="two CPU cores",
        expect="a demonstration on rendered scenes; no published result",
    ),
}
DEFAULT_RECIPE = "s14-youtube-vos"


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name; an unknown one raises LilaError with the list."""
    if name not in RECIPES:
        raise LilaError(
            f"expected --recipe to be one of {', '.join(RECIPES)}, found {name}{did_you_mean(name, RECIPES)}"
        )
    return RECIPES[name]
