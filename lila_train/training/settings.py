"""Everything that shapes a training run, as one frozen value; the defaults are the paper's where it states them.

What only says how a run is carried out (device, loader processes, compilation) is not here: it changes no result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

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
class Method:
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
    def from_dict(cls, record: dict[str, Any]) -> Method:
        """The inverse of `asdict`, also after a round trip through JSON."""
        views: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["views"].items()}
        return cls(**{**record, "cues": tuple(record["cues"]), "views": ViewRanges(**views)})


@dataclass(frozen=True)
class TrainSettings:
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
    method: Method = field(default_factory=Method)

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint's header keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TrainSettings:
        """The inverse of `to_dict`, also after a round trip through JSON."""
        return cls(**{**record, "method": Method.from_dict(record["method"])})

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
        from lila_train.training.cues import CUES

        unknown = [name for name in self.method.cues if name not in CUES]
        if unknown or not self.method.cues:
            raise LilaError(f"cues must be some of {', '.join(CUES)}, found {', '.join(unknown) or 'none'}")

    def check_store(self, store: CueStore) -> None:
        """Refuse settings that this store cannot serve."""
        from lila_train.training.cues import told_by

        kept = store.spec.geometry.channels
        if self.method.channels > kept:
            raise LilaError(
                f"--channels asks for {self.method.channels} encoder channels per pair, but the store keeps "
                f"{kept} per clip; pass --channels {kept} or fewer"
            )
        for cue in told_by(self.method):
            if self.online and cue.name in COMPUTABLE:
                continue
            if lacking := store.lacking(cue.arrays(self.method)):
                others = ",".join(name for name in self.method.cues if name != cue.name)
                never = ",".join(name for name in lacking if name not in store.arrays)
                remedy = f"build one with --extra-cues {never}" if never else "copy the whole store"
                raise LilaError(
                    f"this run learns from {cue.name}, but {store.path} has no {' or '.join(lacking)}; {remedy}, or "
                    f"leave the cue out with --set cues={others}"
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
