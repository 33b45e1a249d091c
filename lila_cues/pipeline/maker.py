"""From a clip's frames to its cues: encoder, depth and flow on the device, PAMR, and numpy again."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_cues import draws
from lila_cues.networks.execution import usual_batch
from lila_cues.pamr import refine, three_scales
from lila_cues.pipeline.derived import DERIVED
from lila_cues.pipeline.intake import ClipFrames
from lila_cues.pipeline.networks import Networks
from lila_cues.pipeline.recipe import BuildRecipe
from lila_cues.pipeline.seconds import Seconds
from stores.cues import ClipCues


@dataclass(frozen=True)
class Computed:
    """What the networks made of one clip, on their device."""

    frames: ClipFrames
    channels: np.ndarray  # int32 C
    images: Float[Tensor, "f 3 y x"]
    raw: Float[Tensor, "f c h w"]
    refined: Float[Tensor, "f c y x"] | None  # None: left to `finish`
    depth: Float[Tensor, "f y x"]
    forward: Float[Tensor, "p 2 y x"]
    backward: Float[Tensor, "p 2 y x"]


class CueMaker:
    """The networks and how they are applied. `compute` is for one thread at a time, `finish` for any."""

    def __init__(self, networks: Networks, recipe: BuildRecipe):
        self.networks, self.recipe = networks, recipe
        self.device = torch.device(recipe.device)
        self.seconds = Seconds(self.device)
        self._batch = usual_batch(self.device) or recipe.geometry.frames

    def compute(self, frames: ClipFrames) -> Computed:
        """Run the networks; on a GPU this only queues the work."""
        with torch.no_grad(), self._here():
            return self._compute(frames)

    def finish(self, made: Computed) -> ClipCues:
        """Refine what is not yet refined, wait for the device, and hand over as the store keeps it."""
        with torch.no_grad(), self._here():
            return self._finish(made)

    def _here(self) -> AbstractContextManager[object]:
        """The maker's GPU as the calling thread's: events and kernels of a thread go to its current one."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _compute(self, frames: ClipFrames) -> Computed:
        images = _images(frames.small, self.device)
        seen = images if frames.seen is frames.small else _images(frames.seen, self.device)
        channels = draws.channels(
            self.recipe.seed, frames.clip_id, self.networks.encoder.width, self.recipe.geometry.channels
        )
        with self.seconds.device("encoder"):
            raw = self._raw_features(seen, channels)
        with self.seconds.device("depth"):
            depth = self._depth(images, frames)
        with self.seconds.device("flow"):
            forward, backward = self._flow(images, frames.choice.pair_frames)
        refined = self._refine(raw, images) if self.device.type == "cuda" else None
        return Computed(frames, channels, images, raw, refined, depth, forward, backward)

    def _finish(self, made: Computed) -> ClipCues:
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

    def _extra(self, made: Computed) -> dict[str, Tensor]:
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
