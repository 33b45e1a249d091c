"""From a clip's frames to its cues: encoder, depth and flow on the device, PAMR, extra cues, and numpy again.

Extra cues are maps of every frame that are computed from the networks' predictions, where a build asks for them. A row
of `DERIVED` is all that stage one needs of one: `lila-cues build --extra-cues`, plan, inspect and verify use the row.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lila_cues.config import BuildConfig
from lila_cues.networks.frozen import default_batch
from lila_cues.pamr import Affinity, refine, three_scales
from lila_cues.pipeline.frames import ClipFrames, DepthFiles
from lila_cues.pipeline.setup import Networks
from lila_cues.sampling import select_channels
from stores.cues import ClipCues, first_not_finite
from stores.encodings import Blosc, FixedPoint
from stores.spec import FrameMaps

FIELD_OF_VIEW_DEG = 45.0
"""Of the base crop, which no file states: between a phone's long side (65°) and a telephoto lens."""


@dataclass(frozen=True)
class ClipPredictions:
    """What the networks predict for one clip, on their device."""

    frames: ClipFrames
    channels: np.ndarray  # int32 C
    images: Float[Tensor, "f 3 y x"]
    raw: Float[Tensor, "f c h w"]
    refined: Float[Tensor, "f c y x"] | None  # None: left to `finish`
    depth: Float[Tensor, "f y x"]
    forward: Float[Tensor, "p 2 y x"]
    backward: Float[Tensor, "p 2 y x"]


class CueExtractor:
    """The networks and how they are applied. `predict` is for one thread at a time, `finish` for any."""

    def __init__(self, networks: Networks, config: BuildConfig, device: str):
        self.networks, self.config, self.device = networks, config, torch.device(device)
        self.encoder_input = config.encoder_input(networks.encoder.patch_size)
        self.geometry = config.geometry(networks.encoder.patch_size, networks.encoder.width)
        self.timer = Timer(self.device)
        self._batch = default_batch(self.device) or config.frames

    def predict(self, frames: ClipFrames) -> ClipPredictions:
        """Run the networks; on a GPU this only queues the work."""
        encoder, pairs = self.networks.encoder, torch.from_numpy(frames.selection.pair_frames).long()
        channels = select_channels(self.config.seed, frames.clip_id, encoder.width, self.geometry.channels)
        with torch.no_grad(), self._current_device():
            images = _to_device(frames.images, self.device)
            same = frames.encoder_images is frames.images
            encoder_images = images if same else _to_device(frames.encoder_images, self.device)
            with self.timer.device("encoder"):
                kept = torch.from_numpy(channels).to(self.device, torch.long)
                raw = torch.cat([encoder.grid(part)[:, kept].float() for part in encoder_images.split(self._batch)])
            with self.timer.device("depth"):
                if frames.depth is not None:
                    depth = torch.from_numpy(frames.depth)
                else:
                    network = self.networks.depth
                    assert not isinstance(network, DepthFiles)
                    depth = torch.cat([network(part).float() for part in images.split(self._batch)])
            with self.timer.device("flow"):
                forward, backward = self.networks.flow.between(images, torch.cat([pairs, pairs.flip(1)])).chunk(2)
            refined = self._refine(raw, images) if self.device.type == "cuda" else None
        return ClipPredictions(frames, channels, images, raw, refined, depth, forward, backward)

    def finish(self, predictions: ClipPredictions) -> ClipCues:
        """Refine what is not yet refined, wait for the device, and return numpy arrays as a store expects them."""
        frames, selection = predictions.frames, predictions.frames.selection
        with torch.no_grad(), self._current_device():
            refined, extra = predictions.refined, dict[str, Tensor]()
            if refined is None:
                refined = self._refine(predictions.raw, predictions.images)
            if self.config.extra_cues:
                with self.timer.device("extra cues"):
                    extra = {name: DERIVED[name].compute(predictions) for name in self.config.extra_cues}
            with self.timer.host("to host"):
                return ClipCues(
                    rgb=frames.rgb,
                    depth=_to_host(predictions.depth),
                    flow_forward=_to_host(predictions.forward),
                    flow_backward=_to_host(predictions.backward),
                    features=_to_host(refined),
                    features_raw=_to_host(predictions.raw),
                    feature_channels=predictions.channels,
                    frame_index=selection.frame_index,
                    frame_time=frames.times,
                    pair_frames=selection.pair_frames.astype(np.int32),
                    pair_gap=selection.pair_gap.astype(np.int32),
                    extra={name: _to_host(maps) for name, maps in extra.items()},
                )

    def _refine(self, raw: Tensor, images: Tensor) -> Tensor:
        """PAMR on the cue grid, then the mean over the cells of the feature grid."""
        config, parts = self.config, zip(raw.split(self._batch), images.split(self._batch), strict=True)
        scales = three_scales(self.geometry.cue, config.pamr_iterations)
        affinity = Affinity(dilations=config.pamr_dilations, sigma=config.pamr_sigma)
        with self.timer.device("pamr"):
            return torch.cat(
                [
                    F.adaptive_avg_pool2d(refine(part, guide, scales, affinity), self.geometry.features)
                    for part, guide in parts
                ]
            )

    def _current_device(self) -> AbstractContextManager[object]:
        """Make the extractor's GPU the calling thread's, which is where a thread's events and kernels go."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


class Timer:
    """Sums seconds per named part; a GPU's own time is taken by events, which do not make the host wait."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def host(self, part: str) -> Iterator[None]:
        """Add the time that the calling thread spends in the context."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._sums[part] = self._sums.get(part, 0.0) + time.perf_counter() - start

    @contextmanager
    def device(self, part: str) -> Iterator[None]:
        """Add the time that the device spends on the work queued in the context."""
        if not self._cuda:
            with self.host(part):
                yield
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        with self._lock:
            self._events.append((part, start, end))

    def take(self) -> dict[str, float]:
        """Return the sums since the last call; on a GPU this waits for the measured work."""
        with self._lock:
            for part, start, end in self._events:
                end.synchronize()
                self._sums[part] = self._sums.get(part, 0.0) + start.elapsed_time(end) / 1000
            self._events.clear()
            sums, self._sums = self._sums, {}
        return sums


def _to_device(images: np.ndarray, device: torch.device) -> Tensor:
    """Return uint8 F y x 3 as float32 F 3 y x in [0, 1] on the device."""
    host = torch.from_numpy(images)
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255).contiguous()


def network_failure(cues: ClipCues) -> str | None:
    """Return which network gave NaN or infinity, and for which frame or pair of the source; None if all is finite."""
    pairs = cues.frame_index[cues.pair_frames]
    for name, network, frames in (
        ("features_raw", "encoder", cues.frame_index),
        ("depth", "depth network", cues.frame_index),
        ("flow_forward", "flow network", pairs),
        ("flow_backward", "flow network", pairs[:, ::-1]),
    ):
        if (index := first_not_finite(cues[name])) is not None:
            where = " to ".join(str(frame) for frame in np.atleast_1d(frames[index]))
            return (
                f"expected finite numbers from the {network}, found NaN or infinity for frame {where}; check its "
                "weights, or pass --precision float32"
            )
    return None


def _to_host(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def surface_normals(
    inverse_depth: Float[Tensor, "f y x"], field_of_view_deg: float = FIELD_OF_VIEW_DEG
) -> Float[Tensor, "f 3 y x"]:
    """Return unit normals of the visible surface from relative inverse depth q = a/Z; they do not depend on a > 0.

    Axes x to the right, y down, z away from the camera; a normal faces the camera, so its z is not above 0. On the
    plane n·X = c a pinhole camera of focal length f sees q = (a/c)(n_x u/f + n_y v/f + n_z) at the pixel (u, v) from
    the center, so that n ∝ (f ∂q/∂u, f ∂q/∂v, q − u ∂q/∂u − v ∂q/∂v). Where q is 0, infinitely far, (0, 0, −1).
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


@dataclass(frozen=True)
class Derived:
    """An extra cue: how a store keeps it, and how its maps f×c×y×x on the cue grid are computed."""

    maps: FrameMaps
    compute: Callable[[ClipPredictions], Tensor]


NORMALS = FrameMaps(
    name="normals",
    axis=("x", "y", "z"),
    units=f"unit normals from inverse depth, for a field of view of {FIELD_OF_VIEW_DEG:g} degrees",
    encoding=FixedPoint(1 / 127, "int8", Blosc("zstd", 1, "bitshuffle")),
    limits=(-1.0, 1.0),
    tolerance=0.25,
)
DERIVED = {NORMALS.name: Derived(NORMALS, lambda predictions: surface_normals(predictions.depth))}
