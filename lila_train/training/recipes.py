"""Named settings: a recipe is a run that somebody would start, with what it needs and what to expect of it.

Published figures are DAVIS-2017 val J&F by linear probe / local k-NN (the paper's tables).
"""

from __future__ import annotations

from dataclasses import dataclass

from lila_train.training.settings import Method, TrainSettings
from stores.errors import LilaError


@dataclass(frozen=True)
class Recipe:
    """Settings, and in words: the two commands, the hardware, the published result."""

    settings: TrainSettings
    build: str
    run: str
    hardware: str
    expect: str


_PAPER = TrainSettings(steps=100_000)

RECIPES = {
    "s14-youtube-vos": Recipe(
        _PAPER,
        build="lila-cues build --dataset youtube-vos --profile small",
        run="lila-train run --recipe s14-youtube-vos --store cues/youtube-vos.zarr",
        hardware="one GPU; the reference trains so in float32",
        expect="published: DAVIS J&F 68.6 by linear probe, 73.9 by k-NN",
    ),
    "b14-youtube-vos": Recipe(
        _PAPER,
        build="lila-cues build --dataset youtube-vos --profile base",
        run="lila-train run --recipe b14-youtube-vos --store cues/youtube-vos.zarr",
        hardware="one GPU",
        expect="published: DAVIS J&F 70.4 by linear probe, 74.2 by k-NN",
    ),
    "l14-kinetics": Recipe(
        _PAPER,
        build="lila-cues build --dataset kinetics --profile large",
        run="torchrun --nproc-per-node 8 -m lila_train run --recipe l14-kinetics --store cues/kinetics.zarr",
        hardware="eight GPUs, as the reference's runs are named; fewer take the same steps more slowly",
        expect="published: DAVIS J&F 69.3 by linear probe, 74.9 by k-NN",
    ),
    "demo": Recipe(
        TrainSettings(
            steps=150, batch_size=4, learning_rate=1e-3, decoder_width=64, method=Method(view_size=112, max_gap=4)
        ),
        build="lila-cues build --dataset demo",
        run="lila-train run --recipe demo --store cues/demo.zarr",
        hardware="two CPU cores",
        expect="a demonstration on rendered scenes; no published figure",
    ),
}
DEFAULT = "s14-youtube-vos"


def recipe(name: str) -> Recipe:
    """The recipe of that name, or an error that lists them."""
    if name not in RECIPES:
        raise LilaError(f"expected --recipe to be one of {', '.join(RECIPES)}, found {name}")
    return RECIPES[name]
