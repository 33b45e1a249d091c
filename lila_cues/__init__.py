"""Stage one: from videos to a store of cues, depth, flow and refined encoder features.

`lila-cues build` runs it. The frozen networks and PAMR serve without a store too: a network by its name, and `refine`,
which carries a coarse map to the edges of an image.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lila_cues.networks import load_depth, load_encoder, load_flow
    from lila_cues.pamr import refine, three_scales

_HOMES = {
    "load_depth": "networks",
    "load_encoder": "networks",
    "load_flow": "networks",
    "refine": "pamr",
    "three_scales": "pamr",
}

__all__ = ["load_depth", "load_encoder", "load_flow", "refine", "three_scales"]


def __getattr__(name: str) -> object:
    """PyTorch is imported when it is first needed, so that the command line's help comes at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
