"""Settings of an evaluation, beside those that its protocol fixes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, PositiveInt

from stores.config import MAX_SEED, Config


class EvalConfig(Config):
    """What a command may change in a protocol; all of it shapes the scores."""

    own_options: ClassVar[frozenset[str]] = frozenset(("limit", "seed", "short_side", "texts", "clip", "fast_probe"))
    places: ClassVar[frozenset[str]] = frozenset(("texts",))

    limit: PositiveInt | None = Field(None, description="Number of sequences or images to score; none: all.")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Seed of trained probes; k-NN has none.")
    short_side: int | None = Field(
        None, ge=16, description="Short side of DAVIS frames in pixels; none: the protocol's."
    )
    texts: Path | None = Field(None, description="Text embeddings of the classes as .npy, for zero-shot protocols.")
    clip: str | None = Field(
        None, description="CLIP for zero-shot protocols, hub name or folder; none: the protocol's."
    )
    fast_probe: bool = Field(False, description="Accelerated solver of davis-lp@lila: J&F to 0.01 points, much faster.")
