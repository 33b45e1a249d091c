"""The cues of a batch computed in the training step, as the reference does: the baseline that a store is compared with.

Frames still come from the store, decoded; a run without one would pay for that as well.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

import stores
from lila_cues.networks import FrozenEncoder
from lila_cues.pamr import refine, three_scales
from lila_cues.pipeline.networks import Networks, load_networks
from lila_cues.pipeline.recipe import Recipe
from lila_cues.pipeline.recompute import recorded_recipe
from lila_train.pairs import PairBatch
from lila_train.settings import DEPTH, FEATURES, FLOW, Method


class OnlineCues:
    """Puts the cues of METHOD section 2 into a batch that has only frames, by a store's own networks and sizes.

    Depth that a build took from files has no network; it stays in the store.
    """

    def __init__(self, networks: Networks, recipe: Recipe, method: Method) -> None:
        self._networks, self._recipe = networks, recipe
        told = set(method.cues)
        if networks.depth is None:
            told.discard(DEPTH)
        if method.distilled == "online":
            told.discard(FEATURES)
        self.computed = frozenset(told)
        self._raw = method.distilled == "raw"

    @classmethod
    def of_store(cls, store: stores.CueStore, encoder: FrozenEncoder, method: Method) -> OnlineCues:
        """The networks that a store was built by, loaded again onto the device of `encoder`, which is one of them."""
        recipe = recorded_recipe(store)
        networks = load_networks(recipe.networks, str(next(encoder.parameters()).device))
        return cls(replace(networks, encoder=encoder), recipe, method)

    @torch.no_grad()
    def __call__(self, batch: PairBatch) -> PairBatch:
        """The batch with what is computed filled in, unquantised, on its device."""
        images = _resized(batch.rgb.flatten(0, 1), self._recipe.geometry.cue)
        found: dict[str, Tensor] = {}
        if DEPTH in self.computed:
            assert self._networks.depth is not None
            found["depth"] = self._networks.depth(images).float().unflatten(0, (-1, 2))
        if FLOW in self.computed:
            earlier = torch.arange(0, len(images), 2, device=images.device)
            pairs = torch.stack((earlier, earlier + 1), dim=1)
            both = self._networks.flow.between(images, torch.cat((pairs, pairs.flip(1)))).float()
            found["flow_forward"], found["flow_backward"] = both.chunk(2)
        if FEATURES in self.computed:
            found["features"] = self._features(batch, images).unflatten(0, (-1, 2))
        return replace(batch, **found)

    def _features(self, batch: PairBatch, images: Float[Tensor, "f 3 y x"]) -> Float[Tensor, "f k y2 x2"]:
        recipe = self._recipe
        tokens = self._networks.encoder.grid(_resized(batch.rgb.flatten(0, 1), recipe.encoder_input)).float()
        channels = batch.channels.repeat_interleave(2, dim=0)[..., None, None]
        raw = tokens.gather(1, channels.expand(-1, -1, *tokens.shape[-2:]))
        if self._raw:
            return raw
        scales = three_scales(recipe.geometry.cue, recipe.pamr.iterations)
        return F.adaptive_avg_pool2d(refine(raw, images, scales, recipe.pamr.affinity), recipe.geometry.features)


def _resized(frames: UInt8[Tensor, "f 3 H W"], size: tuple[int, int]) -> Float[Tensor, "f 3 y x"]:
    images = frames.float() / 255
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
