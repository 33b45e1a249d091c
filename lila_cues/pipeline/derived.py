"""Extra cues: maps of every frame that are computed from what a clip's networks gave, made when a build asks for them.

A row of `DERIVED` is all that stage one needs of a new one; the store keeps it as its `maps` say, and `lila-cues build
--extra-cues NAME`, plan, inspect and verify go by the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stores.codecs import Blosc
from stores.encodings import Steps
from stores.errors import LilaError
from stores.spec import FrameMaps

if TYPE_CHECKING:
    from lila_cues.pipeline.maker import Computed

FIELD_OF_VIEW_DEG = 45.0
"""Of the base crop, which no file tells: between a phone's long side (65°) and a telephoto lens."""


@dataclass(frozen=True)
class Derived:
    """An extra cue: how it is kept, and how its maps f×c×y×x on the cue grid are made from a clip's networks."""

    maps: FrameMaps
    make: Callable[[Computed], Tensor]


def surface_normals(
    inverse_depth: Float[Tensor, "f y x"], field_of_view_deg: float = FIELD_OF_VIEW_DEG
) -> Float[Tensor, "f 3 y x"]:
    """Unit normals of the surface seen, from relative inverse depth q = a/Z; they do not depend on a > 0.

    Axes x to the right, y down, z away from the camera; a normal faces the camera, so its z is not above 0. On the
    plane n·X = c a pinhole camera of focal length f sees q = (a/c)(n_x u/f + n_y v/f + n_z) at the pixel (u, v) from
    the centre, so that n ∝ (f ∂q/∂u, f ∂q/∂v, q − u ∂q/∂u − v ∂q/∂v). Where q is 0, infinitely far, (0, 0, −1).
    """
    height, width = inverse_depth.shape[-2:]
    focal = max(height, width) / 2 / math.tan(math.radians(field_of_view_deg) / 2)
    q = inverse_depth.float()
    along_v, along_u = torch.gradient(q, dim=(-2, -1))
    v = torch.arange(height, device=q.device, dtype=q.dtype)[:, None] - (height - 1) / 2
    u = torch.arange(width, device=q.device, dtype=q.dtype) - (width - 1) / 2
    facing = (q - u * along_u - v * along_v).clamp(min=0)  # below 0, by an error of the depth: seen edge-on
    inward = torch.stack((focal * along_u, focal * along_v, facing), dim=1)
    flat = inward.new_tensor((0, 0, -1.0)).view(1, 3, 1, 1).expand_as(inward)
    return torch.where(inward.norm(dim=1, keepdim=True) > 1e-6, -F.normalize(inward, dim=1), flat)


DERIVED: dict[str, Derived] = {
    row.maps.name: row
    for row in (
        Derived(
            FrameMaps(
                name="normals",
                axis=("x", "y", "z"),
                units=f"unit normals from inverse depth, for a field of view of {FIELD_OF_VIEW_DEG:g} degrees",
                encoding=Steps(1 / 127, "int8", Blosc("zstd", 1, "bitshuffle")),
                limits=(-1.0, 1.0),
                tolerance=0.25,
            ),
            lambda made: surface_normals(made.depth),
        ),
    )
}


def parse(names: str | None) -> tuple[str, ...]:
    """The extra cues of `NAME,NAME`, each once, in the order of the table; a `LilaError` for one that is none."""
    asked = [name.strip() for name in names.split(",")] if names else []
    for name in asked:
        if name not in DERIVED:
            raise LilaError(f"expected --extra-cues to be some of {', '.join(DERIVED)}, found {name or 'nothing'}")
    return tuple(name for name in DERIVED if name in asked)


def maps_of(names: Sequence[str]) -> tuple[FrameMaps, ...]:
    """How a store keeps those."""
    return tuple(DERIVED[name].maps for name in names)
