"""Settings changed by name: the options of the command line and the rows of an ablation say only what differs.

Named settings: a recipe is a run that somebody would start, with what it needs and what to expect of it.

Published figures are DAVIS-2017 val J&F by linear probe / local k-NN (the paper's tables).

Everything that shapes a training run, as one frozen value; the defaults are the paper's where it states them.

What only says how a run is carried out (device, loader processes, compilation) is not here: it changes no result.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lila_train.training.sampling import ViewRanges
from stores.errors import LilaError
from stores.store import CueStore

Solver = Literal["cholesky", "lu"]
EdgeForm = Literal["absolute", "signed"]
Objective = Literal["in-context", "erm"]
Distilled = Literal["refined", "raw", "online"]
Roles = Literal["forward", "mirrored"]
Schedule = Literal["constant", "cosine"]
Precision = Literal["float32", "bfloat16"]

FLOW, DEPTH, NORMALS, FEATURES = "flow", "depth", "normals", "features"
COMPUTABLE = (FLOW, DEPTH, FEATURES)  # by the networks that a store names, in the step itself


@dataclass(frozen=True)
class ObjectiveConfig:
    """The objective (docs/method.md).

    objective: `in-context` fits a map on the context and judges it on the query; `erm` trains one linear head for all
    frames (ablation A). cues: which are told (`cues`), the paper's by default. distilled: the stored
    features as refined, as the encoder gave them (ablation B), or the view's own tokens refined in the step (the
    reference's way). roles: the context is the earlier frame (paper) or the later one (the reference's code). detach:
    no gradient through the solution.
    """

    view_size: int = 224
    max_gap: int = 5
    channels: int = 32
    cells: int = 32
    ridge: float = 0.1
    solver: Solver = "cholesky"
    detach: bool = False
    edge_weight: float = 1.0
    edge_sigma: float = 0.1
    edge_form: EdgeForm = "absolute"
    objective: Objective = "in-context"
    cues: tuple[str, ...] = (FLOW, DEPTH, FEATURES)
    distilled: Distilled = "refined"
    roles: Roles = "forward"
    views: ViewRanges = field(default_factory=ViewRanges)

    @property
    def frames(self) -> tuple[int, int]:
        """Which frame of a pair (0: t, 1: t+Δ) is the context, which the query."""
        return (0, 1) if self.roles == "forward" else (1, 0)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> ObjectiveConfig:
        """The inverse of `asdict`, also after a round trip through JSON."""
        views: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["views"].items()}
        return cls(**{**record, "cues": tuple(record["cues"]), "views": ViewRanges(**views)})


@dataclass(frozen=True)
class TrainConfig:
    """The run: how long, how large, how fast, and by which method.

    online: the step computes flow, depth and features from the frames instead of reading them; the baseline.
    """

    steps: int
    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    clip_norm: float | None = None
    precision: Precision = "float32"
    decoder_width: int | None = None
    online: bool = False
    method: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint's header keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`, also after a round trip through JSON."""
        return cls(**{**record, "method": ObjectiveConfig.from_dict(record["method"])})

    def check(self) -> None:
        """Refuse values that no run can have."""
        positive = {
            "--steps": self.steps,
            "--batch-size": self.batch_size,
            "--lr": self.learning_rate,
            "--view-size": self.method.view_size,
            "--max-gap": self.method.max_gap,
            "--channels": self.method.channels,
            "ridge": self.method.ridge,
            "cells": self.method.cells,
            "edge_sigma": self.method.edge_sigma,
        }
        for option, value in positive.items():
            if not value > 0:
                raise LilaError(f"{option} must be above 0, found {value}")
        self.method.views.check()
        from lila_train.training.targets import CUES

        unknown = [name for name in self.method.cues if name not in CUES]
        if unknown or not self.method.cues:
            raise LilaError(f"cues must be some of {', '.join(CUES)}, found {', '.join(unknown) or 'none'}")

    def check_store(self, store: CueStore) -> None:
        """Refuse settings that this store cannot serve."""
        from lila_train.training.targets import active_cues

        kept = store.spec.geometry.channels
        if self.method.channels > kept:
            raise LilaError(
                f"--channels asks for {self.method.channels} encoder channels per pair, but the store keeps "
                f"{kept} per clip; pass --channels {kept} or fewer"
            )
        for cue in active_cues(self.method):
            if self.online and cue.name in COMPUTABLE:
                continue
            if missing_arrays := store.missing_arrays(cue.arrays(self.method)):
                others = ",".join(name for name in self.method.cues if name != cue.name)
                never = ",".join(name for name in missing_arrays if name not in store.arrays)
                remedy = f"build one with --extra-cues {never}" if never else "copy the whole store"
                raise LilaError(
                    f"this run learns from {cue.name}, but {store.path} has no {' or '.join(missing_arrays)}; "
                    f"{remedy}, or leave the cue out with --set cues={others}"
                )


def differences(recorded: Any, asked: Any, prefix: str = "") -> list[str]:
    """Where two settings differ, as `name: recorded, not asked`."""
    found = []
    for entry in fields(recorded):
        old, new = getattr(recorded, entry.name), getattr(asked, entry.name)
        if old == new:
            continue
        if hasattr(old, "__dataclass_fields__"):
            found += differences(old, new, f"{prefix}{entry.name}.")
        else:
            found.append(f"{prefix}{entry.name}: {old}, not {new}")
    return found


def field_paths(settings: Any, prefix: str = "") -> dict[str, str]:
    """Each setting's name and its dotted place, such as `ridge: method.ridge`; names are unique over all levels."""
    found: dict[str, str] = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        place = f"{prefix}{entry.name}"
        found |= field_paths(value, f"{place}.") if is_dataclass(value) else {entry.name: place}
    return found


def changed(settings: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The settings with some values replaced, by name, wherever they live; checked as a whole."""
    places = field_paths(settings)
    for name, value in values.items():
        settings = _put(settings, places[_known(name, places)].split("."), value)
    settings.check()
    return settings


def parsed(settings: TrainConfig, words: Sequence[str]) -> dict[str, Any]:
    """The values of `NAME=VALUE` words, each read as its setting's type; tuples are written with commas."""
    places, found = field_paths(settings), {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise LilaError(f"expected --set NAME=VALUE, found {word}")
        place = places[_known(name, places)].split(".")
        found[name] = _read(text, _type(settings, place), f"--set {name}")
    return found


def choice(settings: TrainConfig, name: str, word: str) -> Any:
    """A word for a setting that takes one of a few, refused with their list where it is none of them."""
    return _read(word, _type(settings, field_paths(settings)[name].split(".")), f"--{name.replace('_', '-')}")


def table(settings: TrainConfig) -> list[tuple[str, str]]:
    """Every name with its value, as `--set` would be told it."""
    return [(name, _written(_at(settings, place.split(".")))) for name, place in field_paths(settings).items()]


def _known(name: str, places: Mapping[str, str]) -> str:
    if name not in places:
        meant = [place for place in places if name and name in place] or get_close_matches(name, places, n=1)
        hint = f", did you mean {' or '.join(meant)}?" if meant else ""
        raise LilaError(f"expected --set to name one of {', '.join(places)}; found {name or 'nothing'}{hint}")
    return name


def _put(settings: Any, place: Sequence[str], value: Any) -> Any:
    first, *rest = place
    return replace(settings, **{first: _put(getattr(settings, first), rest, value) if rest else value})


def _at(settings: Any, place: Sequence[str]) -> Any:
    for name in place:
        settings = getattr(settings, name)
    return settings


def _type(settings: Any, place: Sequence[str]) -> Any:
    owner = _at(settings, place[:-1])
    return get_type_hints(type(owner))[place[-1]]


def _read(text: str, kind: Any, option: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
        return None if text == "none" else _read(text, kind, option)
    if origin is Literal:
        if text not in get_args(kind):
            raise LilaError(f"{option} must be {' or '.join(get_args(kind))}, found {text}")
        return text
    if origin is tuple:
        return _read_tuple(text, get_args(kind), option)
    if kind is bool:
        return _read(text, Literal["true", "false"], option) == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise LilaError(f"{option} must be a number ({kind.__name__}), found {text or 'nothing'}") from error


def _read_tuple(text: str, kinds: tuple[Any, ...], option: str) -> tuple[Any, ...]:
    words = text.split(",") if text else []
    if kinds[-1] is ...:
        return tuple(_read(word, kinds[0], option) for word in words)
    if len(words) != len(kinds):
        raise LilaError(f"{option} takes {len(kinds)} values with commas between, found {text or 'nothing'}")
    return tuple(_read(word, kind, option) for word, kind in zip(words, kinds, strict=True))


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_written(part) for part in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Recipe:
    """Settings, and in words: the two commands, the hardware, the published result."""

    settings: TrainConfig
    build: str
    run: str
    hardware: str
    expect: str


_PAPER = TrainConfig(steps=100_000)

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
        TrainConfig(
            steps=150,
            batch_size=4,
            learning_rate=1e-3,
            decoder_width=64,
            method=ObjectiveConfig(view_size=112, max_gap=4),
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
