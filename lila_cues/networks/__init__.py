"""The frozen networks of stage one, chosen by name; importing this package imports none of them.

`load_encoder`, `load_depth` and `load_flow` give networks in eval mode without gradients, each with a `source` that
says where its weights came from.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lila_cues.networks.depth import DepthNetwork, load_depth
    from lila_cues.networks.encoder import FrozenEncoder
    from lila_cues.networks.encoder_weights import encoder_from_tensors, load_encoder, restore_encoder
    from lila_cues.networks.execution import Execution
    from lila_cues.networks.flow import FlowNetwork, load_flow
    from lila_cues.networks.weights import WeightSource

_HOMES = {
    "DepthNetwork": "depth",
    "Execution": "execution",
    "FlowNetwork": "flow",
    "FrozenEncoder": "encoder",
    "encoder_from_tensors": "encoder_weights",
    "load_depth": "depth",
    "load_encoder": "encoder_weights",
    "load_flow": "flow",
    "restore_encoder": "encoder_weights",
    "WeightSource": "weights",
}

__all__ = [
    "DepthNetwork",
    "Execution",
    "FlowNetwork",
    "FrozenEncoder",
    "WeightSource",
    "encoder_from_tensors",
    "load_depth",
    "load_encoder",
    "load_flow",
    "restore_encoder",
]


def __getattr__(name: str) -> object:
    """Import a name's module when it is first asked for: torch and timm take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
