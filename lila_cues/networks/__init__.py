"""The frozen networks, by name.

`load_encoder`, `load_depth` and `load_flow` return networks in eval mode without gradients, each with a `source` that
records where its weights came from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stores import lazy_names

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

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "depth": ("load_depth",),
        "encoder": ("FrozenEncoder", "encoder_from_tensors", "load_encoder", "restore_encoder"),
        "flow": ("load_flow",),
        "frozen": ("DepthNetwork", "Execution", "FlowNetwork"),
        "weights": ("WeightSource",),
    },
)
