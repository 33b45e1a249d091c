"""Stage one: from videos to a store of cues (depth, flow, refined encoder features).

`lila-cues build` runs it. The frozen networks and PAMR are usable without a store.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lila_cues.networks.depth import load_depth as load_depth
    from lila_cues.networks.encoder import load_encoder as load_encoder
    from lila_cues.networks.flow import load_flow as load_flow
    from lila_cues.pamr import refine as refine
    from lila_cues.pamr import three_scales as three_scales

_PUBLIC = {
    "load_depth": "lila_cues.networks.depth",
    "load_encoder": "lila_cues.networks.encoder",
    "load_flow": "lila_cues.networks.flow",
    "refine": "lila_cues.pamr",
    "three_scales": "lila_cues.pamr",
}
"""Public name → its module, imported when the name is first used: PyTorch takes seconds to import."""

__all__ = ["load_depth", "load_encoder", "load_flow", "refine", "three_scales"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
