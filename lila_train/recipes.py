"""Named settings: a recipe is a run that somebody would start, with what it needs and what to expect of it.

Published figures are DAVIS-2017 val J&F by linear probe / local k-NN (METHOD section 7).
"""

from __future__ import annotations

from dataclasses import dataclass

from lila_train.settings import Method, TrainSettings
from stores.errors import LilaError


@dataclass(frozen=True)
class Recipe:
    """Settings, and in words: what store they are for, on what hardware, with what published result."""

    settings: TrainSettings
    build: str
    hardware: str
    expect: str


_PAPER = TrainSettings(steps=100_000)

RECIPES = {
    "s14-youtube-vos": Recipe(
        _PAPER,
        build="lila-cues build --dataset youtube-vos --profile small",
        hardware="one GPU of 24 GB",
        expect="published: DAVIS J&F 68.6 by linear probe, 73.9 by k-NN",
    ),
    "b14-youtube-vos": Recipe(
        _PAPER,
        build="lila-cues build --dataset youtube-vos --profile base",
        hardware="one GPU of 40 GB",
        expect="published: DAVIS J&F 70.4 by linear probe, 74.2 by k-NN",
    ),
    "l14-kinetics": Recipe(
        _PAPER,
        build="lila-cues build --dataset kinetics --profile large",
        hardware="one GPU of 80 GB (the reference used eight)",
        expect="published: DAVIS J&F 69.3 by linear probe, 74.9 by k-NN",
    ),
    "demo": Recipe(
        TrainSettings(
            steps=150, batch_size=4, learning_rate=1e-3, decoder_width=64, method=Method(view_size=112, max_gap=4)
        ),
        build="lila-cues build --dataset demo",
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
