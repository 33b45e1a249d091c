"""Settings of an evaluation, beside those that its protocol fixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt

from stores.config import MAX_SEED, Config

R = TypeVar("R")  # a dataclass of settings


class EvalConfig(Config):
    """What a command may change in a protocol; all of it shapes the scores."""

    own_options: ClassVar[frozenset[str]] = frozenset(("limit", "seed", "short_side", "texts", "clip", "fast_probe"))
    places: ClassVar[frozenset[str]] = frozenset(("texts", "flow_weights"))

    limit: PositiveInt | None = Field(None, description="Number of sequences or images to score; none: all.")
    year: int | None = Field(
        None, ge=2016, le=2017, description="Year of DAVIS's list and masks; none: 2017, or 2016 if only that is there."
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of trained probes; k-NN has none.")
    short_side: int | None = Field(
        None, ge=16, description="Short side of DAVIS frames in pixels; none: the protocol's."
    )
    texts: Path | None = Field(None, description="Text embeddings of the classes as .npy, for zero-shot protocols.")
    clip: str | None = Field(
        None, description="CLIP for zero-shot protocols, hub name or folder; none: the protocol's."
    )
    fast_probe: bool = Field(False, description="Accelerated solver of davis-lp@lila: J&F to 0.01 points, much faster.")
    topk: PositiveInt | None = Field(
        None, description="Nearest neighbors of davis-knn that vote; none: the protocol's."
    )
    temperature: PositiveFloat | None = Field(None, description="Of their softmax; none: the protocol's.")
    window: PositiveInt | None = Field(
        None, description="Side of davis-knn's window in cells, odd; none: the protocol's."
    )
    context_frames: int | None = Field(
        None, ge=2, description="Frames that davis-knn compares with: the first and the latest; none: the protocol's."
    )
    visible_cosine: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Least cosine of a point that tapvid-davis takes as visible; none: the protocol's.",
    )
    flow: Literal["raft_small", "raft_large", "dis"] | None = Field(
        None, description="Flow network of davis-stability; none: the protocol's."
    )
    flow_weights: Path | None = Field(None, description="Its weight file; none: torchvision's.")

    def applied_to(self, rule: R, names: Mapping[str, str]) -> tuple[R, EvalConfig]:
        """Return a protocol's settings with the fields in `names` (to those of `rule`) that are given.

        Also the config without those that are the protocol's own values, so that they do not change its id.
        """
        changed = {
            name: value for name, value in self if name in names and value not in (None, getattr(rule, names[name]))
        }
        config = self.replace(**{name: changed.get(name) for name in names})
        return replace(rule, **{names[name]: value for name, value in changed.items()}), config  # type: ignore[type-var]

    def changes(self) -> dict[str, str]:
        """Return the fields that are not the protocol's own, and their values as text; `given` for a file."""
        fields = type(self).model_fields
        values = dict(assignment.split("=", maxsplit=1) for assignment in self.assignments())
        changed = [name for name, field in fields.items() if getattr(self, name) != field.default]
        return {name: "given" if name in self.places else values[name] for name in changed}

    def evaluation_id(self, protocol: str) -> str:
        """Return the protocol's id with every changed setting, such as `davis-knn@lila+limit=3+topk=10`."""
        return "+".join([protocol, *(f"{name}={value}" for name, value in self.changes().items())])
