"""Regression targets (docs/method.md, "Cues"): per cue its map, validity mask, weight in the solve, and visualization.

A class here and its row in `CUES` are all that stage two needs of a new cue. The maps of a run's cues follow each other
in the order of the table; features stay last, since with distilled=online they join late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lila_cues.viz import pictures
from lila_cues.viz.pictures import CONFIDENCE_SCALE, MIN_CONFIDENCE, Picture
from lila_train.training.config import DEPTH, FEATURES, FLOW, NORMALS, TrainConfig
from lila_train.training.data import PairBatch
from stores.errors import LilaError
from stores.store import CueStore

MAX_LOG_DEPTH = 0.9  # from here on a pixel is too far for its depth to be reliable

Maps = Float[np.ndarray, "c h w"]
Crop = Callable[[Tensor], Tensor]  # samples maps b×c×y×x on any grid over the base crop at a view: b×c×s×s


@dataclass(frozen=True)
class CueTarget:
    """Regression target of one view: c channels of one cue, s = crop size in pixels; no channels yet if it joins late.

    mask: in [0, 1], sampled from the cue's grid as the map is, for the cue or for each channel. The loss counts entries
    where it is positive; the product over all masks weights a cell of the ridge solve.
    """

    map: Float[Tensor, "b c s s"]
    mask: Float[Tensor, "b m s s"]


class Cue:
    """A map of a frame that a linear function of its features should predict.

    Attributes:
        arrays: the store's arrays that the map is computed from.
        channels: of the map.
        standardized: whether both views get one mean 0 and standard deviation 1.
        x_channel: the horizontal component, whose sign a mirrored frame changes (`pair_targets`); None: there is none.
        odd_in_time: whether the sign changes when time is reversed; the query's map is then negated, so that one linear
            map predicts both views.
    """

    name: str
    arrays: tuple[str, ...]
    channels: int
    standardized = False
    x_channel: int | None = None
    odd_in_time = False

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def target(self, batch: PairBatch, frame: int, crop: Crop) -> CueTarget:
        """Return the target of a view of `frame` (0: t, 1: t+Δ), before sign and standardization."""
        raise NotImplementedError

    def draw(self, true: Maps, predicted: Maps) -> tuple[Picture, Picture]:
        """Return pictures of a view's map and of its prediction, on one scale."""
        raise NotImplementedError


class Flow(Cue):
    """Flow to the other frame of the pair in half-image units; valid where forward and backward flow agree."""

    name, arrays, channels, x_channel = FLOW, ("flow_forward", "flow_backward"), 2, 0
    standardized = odd_in_time = True

    def target(self, batch: PairBatch, frame: int, crop: Crop) -> CueTarget:
        flows = batch.cues["flow_forward"], batch.cues["flow_backward"]
        flow_px, reverse_px = flows[frame], flows[1 - frame]
        flow = crop(half_image_units(flow_px))
        return CueTarget(flow, crop(consistent(flow_px, reverse_px).float()).expand_as(flow))

    def draw(self, true: Maps, predicted: Maps) -> tuple[Picture, Picture]:
        longest = pictures.flow_scale(true)
        return pictures.flow_picture(true, longest), pictures.flow_picture(predicted, longest)


class Depth(Cue):
    """Log depth, 1 = infinitely far; valid below MAX_LOG_DEPTH."""

    name, arrays, channels, standardized = DEPTH, ("depth",), 1, True

    def target(self, batch: PairBatch, frame: int, crop: Crop) -> CueTarget:
        return CueTarget(*depth_and_mask(batch, frame, crop))

    def draw(self, true: Maps, predicted: Maps) -> tuple[Picture, Picture]:
        low, high = np.percentile(true, (1, 99))
        nearness = [np.clip((high - maps[0]) / max(high - low, 1e-6), 0, 1) for maps in (true, predicted)]
        first, second = (pictures.ramp_picture(part, pictures.DEPTH_COLORS, np.isfinite(part)) for part in nearness)
        return first, second


class Normals(Cue):
    """Unit surface normals (x right, y down, z away from the camera); valid where depth is. Not in the paper."""

    name, arrays, channels, x_channel = NORMALS, ("normals", "depth"), 3, 0

    def target(self, batch: PairBatch, frame: int, crop: Crop) -> CueTarget:
        normals = F.normalize(crop(batch.cues["normals"][:, frame].float()), dim=1)
        return CueTarget(normals, depth_and_mask(batch, frame, crop)[1])

    def draw(self, true: Maps, predicted: Maps) -> tuple[Picture, Picture]:
        return pictures.scaled_picture(true, (-1.0, 1.0)), pictures.scaled_picture(predicted, (-1.0, 1.0))


class Features(Cue):
    """Channels of the encoder, L2-normalized per pixel; valid everywhere."""

    name = FEATURES

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.channels = config.channels
        self.arrays = {"refined": ("features",), "raw": ("features_raw",), "online": ()}[config.distilled]

    def target(self, batch: PairBatch, frame: int, crop: Crop) -> CueTarget:
        mask = torch.ones(len(batch.clips), 1, *(self.config.crop_size,) * 2, device=batch.clips.device)
        if not self.arrays:  # the view's own tokens, known within the step: View.with_features
            return CueTarget(mask[:, :0], mask)
        return CueTarget(F.normalize(crop(batch.cues[self.arrays[0]][:, frame].float()), dim=1), mask)

    def draw(self, true: Maps, predicted: Maps) -> tuple[Picture, Picture]:
        basis = pictures.pca_basis(true.reshape(len(true), -1).T)
        return pictures.pca_picture(true, basis), pictures.pca_picture(predicted, basis)


CUES: dict[str, type[Cue]] = {cue.name: cue for cue in (Flow, Depth, Normals, Features)}


def active_cues(config: TrainConfig) -> list[Cue]:
    """Return the cues of a run in the order of the table; none or an unknown one raises LilaError."""
    unknown = [name for name in config.cues if name not in CUES]
    if unknown or not config.cues:
        raise LilaError(f"cues must be some of {', '.join(CUES)}, found {', '.join(unknown) or 'none'}")
    return [cue(config) for name, cue in CUES.items() if name in config.cues]


def stored_arrays(config: TrainConfig) -> tuple[str, ...]:
    """Return the store's arrays that the targets of a run are computed from, each once."""
    return tuple(dict.fromkeys(name for cue in active_cues(config) for name in cue.arrays))


def training_clips(store: CueStore) -> np.ndarray:
    """Return the numbers of the store's complete clips, to draw pairs from; LilaError where there is none."""
    clips = store.complete_clips()
    if not len(clips):
        raise LilaError(
            f"expected complete clips to train on in {store.path}, found none; `lila-cues status {store.path}` says why"
        )
    return clips


def check_store(config: TrainConfig, store: CueStore) -> None:
    """Raise LilaError if the store lacks channels or arrays that the run needs."""
    kept = store.spec.geometry.channels
    if config.channels > kept:
        raise LilaError(
            f"--set channels asks for {config.channels} encoder channels per pair, but the store keeps {kept} per "
            f"clip; pass --set channels={kept} or fewer"
        )
    for cue in active_cues(config):
        missing = [name for name in cue.arrays if store.files.names(name) == []]  # no file: the store is a partial copy
        if missing:
            others = ",".join(name for name in config.cues if name != cue.name)
            never_built = ",".join(name for name in missing if name not in store.arrays)
            remedy = f"build one with --extra-cues {never_built}" if never_built else "copy the whole store"
            raise LilaError(
                f"this run learns from {cue.name}, but {store.path} has no {' or '.join(missing)}; {remedy}, or "
                f"leave the cue out with --set cues={others}"
            )


def pair_targets(
    cue: Cue, batch: PairBatch, frames: tuple[int, int], crops: tuple[Crop, Crop]
) -> tuple[CueTarget, CueTarget]:
    """Return a cue's targets of the context and the query view with their signs, before standardization.

    One map must fit both views, which share the base crop: its mirror counts, the query's own moves pixels only. The
    learned head of ablation A sees each view on its own: there the view's mirror counts.
    """
    views = []
    for number, (frame, crop) in enumerate(zip(frames, crops, strict=True)):
        target = cue.target(batch, frame, crop)
        if cue.x_channel is not None:
            mirrored = batch.boxes[:, number, 3].bool() if cue.config.objective == "erm" else batch.base_hflip
            is_x = torch.arange(cue.channels, device=mirrored.device) == cue.x_channel
            signs = 1 - 2 * (mirrored[:, None] & is_x).to(target.map.dtype)
            target = replace(target, map=target.map * signs[..., None, None])
        views.append(target)
    context, query = views
    return (context, replace(query, map=-query.map)) if cue.odd_in_time else (context, query)


def moments(maps: Sequence[Tensor]) -> Float[Tensor, " 3"]:
    """Return the number of values of all maps, their sum and the sum of their squares, in float64: they add up."""
    x = torch.cat([m.flatten() for m in maps]).double()
    return torch.stack((x.new_full((), x.numel()), x.sum(), x.square().sum()))


def standardize(x: Tensor, moments: Float[Tensor, " 3"]) -> Tensor:
    """Return (x − mean)/(1e-3 + std), with the mean and the unbiased std that follow from `moments`."""
    count, total, squares = moments
    mean = total / count
    std = ((squares - count * mean.square()) / (count - 1)).clamp(min=0).sqrt()
    return ((x - mean) / (1e-3 + std)).to(x.dtype)


def log_depth(inverse_depth: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return D = ln(1 + 1/(s + 0.1))/ln 11, s = 0.01 q: relative inverse depth q ≥ 0 to (0, 1], 1 = infinitely far."""
    return torch.log1p(1 / (0.01 * inverse_depth.clamp(min=0) + 0.1)) / math.log(11)


def depth_and_mask(batch: PairBatch, frame: int, crop: Crop) -> tuple[Tensor, Tensor]:
    """Return the log depth of a view, b×1×s×s, and the share in [0, 1] of it that is near enough to be reliable."""
    depth = log_depth(batch.cues["depth"][:, frame : frame + 1])
    return crop(depth), crop((depth < MAX_LOG_DEPTH).float())


def half_image_units(flow_px: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 2 h w"]:
    """Convert flow from pixels to units of half the image: u·2/W, v·2/H."""
    h, w = flow_px.shape[-2:]
    return torch.stack((flow_px[:, 0] * (2 / w), flow_px[:, 1] * (2 / h)), dim=1)


def consistent(flow_ab: Float[Tensor, "b 2 h w"], flow_ba: Float[Tensor, "b 2 h w"]) -> Bool[Tensor, "b 1 h w"]:
    """Return where the flow a→b, then b→a comes back: exp(−e/0.05) > ½, e in half-image units. Flows in pixels."""
    u, v = half_image_units(flow_ab + warp(flow_ba, flow_ab)).split(1, dim=1)
    error = torch.hypot(u, v)  # a norm over two channels is ten times slower on CPUs
    return torch.exp(-error / CONFIDENCE_SCALE) > MIN_CONFIDENCE


def warp(values: Float[Tensor, "b c h w"], flow_px: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
    """Sample `values` at p + flow(p), bilinearly, with a repeated border; for any aspect ratio."""
    h, w = flow_px.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(h, device=flow_px.device, dtype=flow_px.dtype),
        torch.arange(w, device=flow_px.device, dtype=flow_px.dtype),
        indexing="ij",
    )
    at_x = (x + flow_px[:, 0] + 0.5) * (2 / w) - 1
    at_y = (y + flow_px[:, 1] + 0.5) * (2 / h) - 1
    grid = torch.stack((at_x, at_y), dim=-1)
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
