"""Other people's models behind the interface of `evaluation.models`; `BASELINES` lists them by name.

A baseline is described before it is loaded: what the user `Asked` of it, its `Code` at one revision, its weights. Code
of others is imported only when its baseline is loaded; importing this package imports none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lila_train.evaluation.baselines.asked import Asked, Baseline
    from lila_train.evaluation.baselines.catalog import BASELINES
    from lila_train.evaluation.baselines.clones import Code
    from lila_train.evaluation.baselines.upsamplers import Upsampler
    from lila_train.evaluation.baselines.video import VideoBaseline

_HOMES = {
    "Asked": "asked",
    "Baseline": "asked",
    "BASELINES": "catalog",
    "Code": "clones",
    "Upsampler": "upsamplers",
    "VideoBaseline": "video",
}

__all__ = [
    "BASELINES",
    "Asked",
    "Baseline",
    "Code",
    "Upsampler",
    "VideoBaseline",
]


def __getattr__(name: str) -> object:
    """Import a name's module when it is first asked for: PyTorch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
