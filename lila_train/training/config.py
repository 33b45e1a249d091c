"""Settings of a training run: everything that shapes its result (TrainConfig) and what does not (RunOptions).

Defaults are the paper's where it states them (docs/method.md). Recipes are named configs.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stores.errors import LilaError

FLOW, DEPTH, NORMALS, FEATURES = "flow", "depth", "normals", "features"
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class TrainConfig:
    """A training run: optimization, pairs and views, targets, objective."""

    steps: int  # optimizer steps
    seed: int = 0  # of weights and sampling
    batch_size: int = 32  # pairs per step, over all ranks
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"  # of the learning rate, after the warm-up
    warmup_steps: int = 0  # of linear warm-up
    clip_norm: float | None = None  # largest norm of the gradient; None: any
    precision: Literal["float32", "bfloat16"] = "float32"  # of encoder and decoder; solve and losses are float32
    decoder_width: int | None = None  # inner width, twice that of a feature; None: as published

    view_size: int = 224  # side of a view in pixels, a multiple of the encoder's patch
    max_gap: int = 5  # largest distance of a pair's frames in source frames
    context_area: tuple[float, float] = (0.8, 0.8)  # range of fractions of the base crop's largest square
    query_area: tuple[float, float] = (0.3, 1.0)
    base_hflip: float = 0.5  # probability of flipping both views
    query_hflip: float = 0.5  # probability of flipping the query once more
    same_region: bool = False  # the query's region is the context's (ablation C)

    cues: tuple[str, ...] = (FLOW, DEPTH, FEATURES)  # regression targets, of `targets.CUES`
    channels: int = 32  # encoder channels sampled per pair as targets
    # stored after PAMR; as the encoder gave them (ablation B); the view's own, refined in the step (reference code)
    distilled: Literal["refined", "raw", "online"] = "refined"
    # the context is the earlier frame (paper); the later one (reference code)
    roles: Literal["forward", "mirrored"] = "forward"

    # fit a linear map on the context and score it on the query; learn one linear head for all frames (ablation A)
    objective: Literal["in-context", "erm"] = "in-context"
    cells: int = 32  # side of the grid on which the map is fitted
    ridge: float = 0.1  # regularization strength of the fit
    solver: Literal["cholesky", "lu"] = "cholesky"
    detach: bool = False  # stop the gradient through the fitted map
    l1_weight: float = 1.0  # weights of `losses.LOSS_TERMS`
    edge_weight: float = 1.0
    edge_sigma: float = 0.1
    edge_form: Literal["absolute", "signed"] = "absolute"  # compare magnitudes (reference code), differences (paper)

    @property
    def frames(self) -> tuple[int, int]:
        """Frame of a pair (0: t, 1: t+Δ) that is the context, and that is the query."""
        return (0, 1) if self.roles == "forward" else (1, 0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> TrainConfig:
        """Return the inverse of `to_dict`, also after a round trip through JSON.

        Raises:
            LilaError: the record has other settings than this version.
        """
        if unlike := record.keys() ^ _TYPES.keys():
            raise LilaError(
                f"expected the settings of a run by this version of lila-train, found a record that differs in "
                f"{', '.join(sorted(unlike))}; use the version that wrote it, or start again in another --out"
            )
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in record.items()}
        return cls(**values)

    def check(self) -> None:
        """Raise LilaError for values that no run can have."""
        for name, value in asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise LilaError(f"{_OPTIONS[name]} must be a finite number, found {value}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise LilaError(f"{_OPTIONS[name]} must be above 0, found {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps", "l1_weight", "edge_weight"):
            if not getattr(self, name) >= 0:
                raise LilaError(f"{_OPTIONS[name]} must be 0 or more, found {getattr(self, name)}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise LilaError(f"--clip-norm must be above 0, found {self.clip_norm:g}; leave it out to clip no gradient")
        if not 0 <= self.seed <= MAX_SEED:
            raise LilaError(f"--seed must be from 0 to {MAX_SEED}, found {self.seed}")
        for name in ("context_area", "query_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise LilaError(f"{name} must be two area fractions, 0 < low ≤ high ≤ 1, found {low:g},{high:g}")
        for name in ("base_hflip", "query_hflip"):
            if not 0 <= getattr(self, name) <= 1:
                raise LilaError(f"{name} must be a probability, found {getattr(self, name):g}")


_TYPES = get_type_hints(TrainConfig)
_POSITIVE = ("steps", "batch_size", "learning_rate", "view_size", "max_gap", "channels", "ridge", "cells", "edge_sigma")
_WITH_OPTION = "steps seed batch_size weight_decay schedule warmup_steps clip_norm precision view_size max_gap channels"
_OPTIONS = {name: f"--set {name}" for name in _TYPES}  # how lila-train run sets it
_OPTIONS |= {name: f"--{name.replace('_', '-')}" for name in _WITH_OPTION.split()}
_OPTIONS |= {"learning_rate": "--lr", "decoder_width": "--width"}


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes its result beyond rounding. Intervals are in steps."""

    device: str = "auto"
    resume: bool = False
    encoder_weights: Path | None = None  # where the encoder's weight file is now
    num_workers: int = 0  # loader processes; 0: load in the main process
    chunks: int = 1  # micro-batches per rank and step, to save memory
    compile: bool = False
    checkpoint_every: int = 1000
    pictures_every: int = 500  # 0: none
    score_data: Path | None = None  # held-out clips with masks, in the DAVIS layout
    score_every: int = 5000
    score_limit: int = 3  # number of clips to score on


def differences(recorded: TrainConfig, requested: TrainConfig) -> list[str]:
    """Return where two configs differ, as `name: recorded, not requested`."""
    pairs = [(name, getattr(recorded, name), getattr(requested, name)) for name in _TYPES]
    return [f"{name}: {old}, not {new}" for name, old, new in pairs if old != new]


def changed(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return the config with some settings replaced, checked."""
    config = replace(config, **values)
    config.check()
    return config


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the values of `NAME=VALUE` strings, each as its setting's type; tuples are written with commas."""
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise LilaError(f"expected --set NAME=VALUE, found {assignment}")
        if name not in _TYPES:
            meant = [known for known in _TYPES if name and name in known] or get_close_matches(name, _TYPES, n=1)
            hint = f", did you mean {' or '.join(meant)}?" if meant else ""
            raise LilaError(f"expected --set to name one of {', '.join(_TYPES)}; found {name or 'nothing'}{hint}")
        values[name] = _parse(text, _TYPES[name], f"--set {name}")
    return values


def parse_setting(name: str, text: str) -> Any:
    """Return the value of a setting's own option as its type."""
    return _parse(text, _TYPES[name], _OPTIONS[name])


def assignments(config: TrainConfig) -> list[str]:
    """Return every setting as the `NAME=VALUE` that --set takes."""
    return [f"{name}={_format(getattr(config, name))}" for name in _TYPES]


def _parse(text: str, kind: Any, option: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (kind,) = (member for member in get_args(kind) if member is not types.NoneType)
        return None if text == "none" else _parse(text, kind, option)
    if kind is str:
        return text
    if origin is Literal:
        if text not in get_args(kind):
            raise LilaError(f"{option} must be {' or '.join(get_args(kind))}, found {text}")
        return text
    if origin is tuple:
        kinds, parts = get_args(kind), text.split(",") if text else []
        if kinds[-1] is ...:
            return tuple(_parse(part, kinds[0], option) for part in parts)
        if len(parts) != len(kinds):
            raise LilaError(f"{option} takes {len(kinds)} values with commas between, found {text or 'nothing'}")
        return tuple(_parse(part, part_kind, option) for part, part_kind in zip(parts, kinds, strict=True))
    if kind is bool:
        return _parse(text, Literal["true", "false"], option) == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise LilaError(f"{option} must be a number ({kind.__name__}), found {text or 'nothing'}") from error


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_format(part) for part in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


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
    "b14-youtube-vos": Recipe(
        _PAPER, hardware="one GPU", expect="published: DAVIS J&F 70.4 by linear probe, 74.2 by k-NN"
    ),
    "l14-kinetics": Recipe(
        _PAPER,
        hardware="eight GPUs, as in the names of the reference's runs; fewer take the same steps more slowly",
        expect="published: DAVIS J&F 69.3 by linear probe, 74.9 by k-NN",
    ),
    "demo": Recipe(
        TrainConfig(steps=150, batch_size=4, learning_rate=1e-3, decoder_width=64, view_size=112, max_gap=4),
        hardware="two CPU cores",
        expect="a demonstration on rendered scenes; no published result",
    ),
}
DEFAULT_RECIPE = "s14-youtube-vos"


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name; an unknown one raises LilaError with the list."""
    if name not in RECIPES:
        raise LilaError(f"expected --recipe to be one of {', '.join(RECIPES)}, found {name}")
    return RECIPES[name]
