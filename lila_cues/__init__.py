"""Stage one: from videos to a store of cues (depth, flow, refined encoder features).

`lila-cues build` runs it. The frozen networks and PAMR are usable without a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stores import lazy_names

if TYPE_CHECKING:
    from lila_cues.networks.depth import load_depth as load_depth
    from lila_cues.networks.encoder import load_encoder as load_encoder
    from lila_cues.networks.flow import load_flow as load_flow
    from lila_cues.pamr import refine as refine
    from lila_cues.pamr import three_scales as three_scales

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "networks.depth": ("load_depth",),
        "networks.encoder": ("load_encoder",),
        "networks.flow": ("load_flow",),
        "pamr": ("refine", "three_scales"),
    },
)
