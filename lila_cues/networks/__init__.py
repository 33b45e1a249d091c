"""The frozen networks, by name.

`load_encoder`, `load_depth` and `load_flow` return networks in eval mode without gradients, each with a `source` that
records where its weights came from.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lila_cues.networks.depth import load_depth as load_depth
    from lila_cues.networks.encoder import FrozenEncoder as FrozenEncoder
    from lila_cues.networks.encoder import encoder_from_tensors as encoder_from_tensors
    from lila_cues.networks.encoder import load_encoder as load_encoder
    from lila_cues.networks.encoder import restore_encoder as restore_encoder
    from lila_cues.networks.flow import load_flow as load_flow
    from lila_cues.networks.frozen import DepthNetwork as DepthNetwork
    from lila_cues.networks.frozen import Execution as Execution
    from lila_cues.networks.frozen import FlowNetwork as FlowNetwork
    from lila_cues.networks.weights import WeightSource as WeightSource

_PUBLIC = {  # name → its module, imported when the name is first used: PyTorch takes seconds to import
    **dict.fromkeys(("FrozenEncoder", "encoder_from_tensors", "load_encoder", "restore_encoder"), "encoder"),
    **dict.fromkeys(("DepthNetwork", "Execution", "FlowNetwork"), "frozen"),
    "load_depth": "depth",
    "load_flow": "flow",
    "WeightSource": "weights",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
