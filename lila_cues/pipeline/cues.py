"""Extra cues: maps of every frame that are computed from what a clip's networks gave, made when a build asks for them.

A row of `DERIVED` is all that stage one needs of a new one; the store keeps it as its `maps` say, and `lila-cues build
--extra-cues NAME`, plan, inspect and verify go by the row.

From a clip's frames to its cues: encoder, depth and flow on the device, PAMR, and numpy again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_cues import sampling
from lila_cues.config import BuildRecipe
from lila_cues.networks.execution import default_batch
from lila_cues.pamr import refine, three_scales
from lila_cues.pipeline.frames import ClipFrames
from lila_cues.pipeline.timing import Seconds
from stores.cues import ClipCues
from stores.encodings import Blosc, FixedPoint
from stores.errors import LilaError
from stores.spec import FrameMaps

FIELD_OF_VIEW_DEG = 45.0
"""Of the base crop, which no file tells: between a phone's long side (65°) and a telephoto lens."""

if TYPE_CHECKING:
    from lila_cues.pipeline.setup import Networks


@dataclass(frozen=True)
class Derived:
    """An extra cue: how it is kept, and how its maps f×c×y×x on the cue grid are made from a clip's networks."""

    maps: FrameMaps
    make: Callable[[ClipPredictions], Tensor]


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
                encoding=FixedPoint(1 / 127, "int8", Blosc("zstd", 1, "bitshuffle")),
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


@dataclass(frozen=True)
class ClipPredictions:
    """What the networks made of one clip, on their device."""

    frames: ClipFrames
    channels: np.ndarray  # int32 C
    images: Float[Tensor, "f 3 y x"]
    raw: Float[Tensor, "f c h w"]
    refined: Float[Tensor, "f c y x"] | None  # None: left to `finish`
    depth: Float[Tensor, "f y x"]
    forward: Float[Tensor, "p 2 y x"]
    backward: Float[Tensor, "p 2 y x"]


class CueExtractor:
    """The networks and how they are applied. `compute` is for one thread at a time, `finish` for any."""

    def __init__(self, networks: Networks, recipe: BuildRecipe):
        self.networks, self.recipe = networks, recipe
        self.device = torch.device(recipe.device)
        self.seconds = Seconds(self.device)
        self._batch = default_batch(self.device) or recipe.geometry.frames

    def compute(self, frames: ClipFrames) -> ClipPredictions:
        """Run the networks; on a GPU this only queues the work."""
        with torch.no_grad(), self._here():
            return self._compute(frames)

    def finish(self, made: ClipPredictions) -> ClipCues:
        """Refine what is not yet refined, wait for the device, and hand over as the store keeps it."""
        with torch.no_grad(), self._here():
            return self._finish(made)

    def _here(self) -> AbstractContextManager[object]:
        """The maker's GPU as the calling thread's: events and kernels of a thread go to its current one."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _compute(self, frames: ClipFrames) -> ClipPredictions:
        images = _images(frames.small, self.device)
        seen = images if frames.seen is frames.small else _images(frames.seen, self.device)
        channels = sampling.select_channels(
            self.recipe.seed, frames.clip_id, self.networks.encoder.width, self.recipe.geometry.channels
        )
        with self.seconds.device("encoder"):
            raw = self._raw_features(seen, channels)
        with self.seconds.device("depth"):
            depth = self._depth(images, frames)
        with self.seconds.device("flow"):
            forward, backward = self._flow(images, frames.choice.pair_frames)
        refined = self._refine(raw, images) if self.device.type == "cuda" else None
        return ClipPredictions(frames, channels, images, raw, refined, depth, forward, backward)

    def _finish(self, made: ClipPredictions) -> ClipCues:
        refined = self._refine(made.raw, made.images) if made.refined is None else made.refined
        frames, choice = made.frames, made.frames.choice
        extra = self._extra(made)
        with self.seconds.host("to host"):
            return ClipCues(
                rgb=frames.rgb,
                depth=_host(made.depth),
                flow_forward=_host(made.forward),
                flow_backward=_host(made.backward),
                features=_host(refined),
                features_raw=_host(made.raw),
                feature_channels=made.channels,
                frame_index=choice.frame_index,
                frame_time=frames.times,
                pair_frames=choice.pair_frames.astype(np.int32),
                pair_gap=choice.pair_gap.astype(np.int32),
                extra={name: _host(maps) for name, maps in extra.items()},
            )

    def _extra(self, made: ClipPredictions) -> dict[str, Tensor]:
        """The extra cues by name, f×c×y×x."""
        if not self.recipe.extra_cues:
            return {}
        with self.seconds.device("extra cues"):
            return {name: DERIVED[name].make(made) for name in self.recipe.extra_cues}

    def _raw_features(self, images: Tensor, channels: np.ndarray) -> Tensor:
        """The clip's channels of the encoder's last tapped block, on the encoder's own grid."""
        kept = torch.from_numpy(channels).to(images.device, torch.long)
        return torch.cat([self.networks.encoder.grid(part)[:, kept].float() for part in images.split(self._batch)])

    def _depth(self, images: Tensor, frames: ClipFrames) -> Tensor:
        if frames.depth is not None:
            return torch.from_numpy(frames.depth)
        assert self.networks.depth is not None
        return torch.cat([self.networks.depth(part).float() for part in images.split(self._batch)])

    def _flow(self, images: Tensor, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
        """t → t+Δ and back."""
        there = torch.from_numpy(pairs).long()
        forward, backward = self.networks.flow.between(images, torch.cat([there, there.flip(1)])).chunk(2)
        return forward, backward

    def _refine(self, raw: Tensor, images: Tensor) -> Tensor:
        """PAMR on the cue grid, then the mean over the cells of the feature grid."""
        choice, geometry = self.recipe.pamr, self.recipe.geometry
        with self.seconds.device("pamr"):
            refined = [
                F.adaptive_avg_pool2d(
                    refine(part, guide, three_scales(geometry.cue, choice.iterations), choice.affinity),
                    geometry.features,
                )
                for part, guide in zip(raw.split(self._batch), images.split(self._batch), strict=True)
            ]
            return torch.cat(refined)


def _images(small: np.ndarray, device: torch.device) -> Tensor:
    """uint8 F y x 3 → float32 F 3 y x in [0, 1] on the device."""
    host = torch.from_numpy(small)
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255).contiguous()


def _host(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
