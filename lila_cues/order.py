"""What a user asks of a build, as a frozen value; light to import, for a command line that answers at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lila_cues.sources import Source, SourceOptions, locate, open_source
from stores.errors import LilaError


@dataclass(frozen=True)
class Order:
    """The options of `lila-cues build` that shape the store; None: as the profile has it."""

    dataset: str
    root: str | None = None
    store: str | None = None
    profile: str | None = None
    limit: int | None = None
    seed: int = 0
    device: str = "auto"
    decoder: str = "decord"
    encoder: str | None = None
    encoder_weights: str | None = None
    depth: str | None = None
    depth_weights: str | None = None
    flow: str | None = None
    flow_weights: str | None = None
    flow_updates: int | None = None
    attention: str = "sdpa"
    precision: str = "float32"
    compiled: bool = False
    max_gap: int | None = None
    extra_cues: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Order:
        """From a command's options by their names, which are those of the fields; others are not looked at."""
        given = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        named: dict[str, Any] = {
            name: str(value) if isinstance(value, Path) else value for name, value in given.items()
        }
        return cls(**named)

    @property
    def path(self) -> Path:
        """Where the store is: --store, else `cues/DATASET.zarr`."""
        return Path(self.store) if self.store else Path("cues") / f"{self.dataset}.zarr"

    @property
    def source_root(self) -> Path:
        """Where the data lie: --root, else `$LILA_DATA/DATASET` or `data/DATASET`."""
        return locate(self.dataset, Path(self.root) if self.root else None)

    def source(self) -> Source:
        """The data set, found."""
        return open_source(self.dataset, self.source_root, SourceOptions(self.decoder, self.seed))

    def clips(self, source: Source) -> Sequence[str]:
        """The clips to build: all, or `limit` of them spread evenly over the list."""
        return spread(source.clips(), self.limit)

    def to_dict(self) -> dict[str, Any]:
        """As a store's provenance keeps it under `request`."""
        return asdict(self)


def spread(clips: Sequence[str], limit: int | None) -> Sequence[str]:
    """`limit` of the clips at even distances; lists go class by class, and the first of them are no sample."""
    if limit is None or limit >= len(clips):
        return clips
    return [clips[int(index)] for index in np.linspace(0, len(clips) - 1, limit).round()]


def parse_shard(text: str | None) -> tuple[int, int]:
    """`i/n` as (i, n) with 0 ≤ i < n: the i-th of n builders that share the tasks."""
    if text is None:
        return (0, 1)
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or int(index) >= int(count):
        raise LilaError(
            f"expected --shard i/n with i from 0 to n−1, found {text}; "
            "in a SLURM array of 8: --array=0-7 and --shard $SLURM_ARRAY_TASK_ID/8"
        )
    return int(index), int(count)
