"""From a clip's frames to its cues: encoder, depth and flow on the device, PAMR, extra cues, and numpy again.

Extra cues are maps of every frame that are computed from the networks' predictions, where a build asks for them. A row
of `DERIVED` is all that stage one needs of one: `lila-cues build --extra-cues`, plan, inspect and verify use the row.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lila_cues import devices
from lila_cues.config import BuildConfig
from lila_cues.networks.frozen import default_batch
from lila_cues.pamr import Affinity, refine, three_scales
from lila_cues.pipeline.frames import ClipFrames, DepthFiles
from lila_cues.pipeline.setup import Networks
from lila_cues.sampling import select_channels
from stores.cues import Array, ClipCues
from stores.encodings import Blosc, FixedPoint, namespace
from stores.shards import stored_values
from stores.spec import ArraySpec, FrameMaps

FIELD_OF_VIEW_DEG = 45.0
"""Of the base crop, which no file states: between a phone's long side (65°) and a telephoto lens."""

MAX_PASS = 4  # clips
NETWORKS_SHARE = 3  # memory of a pass, in multiples of that of PAMR: three maps of float32, and the affinity


@dataclass(frozen=True)
class ClipPredictions:
    """Predictions of the networks for one clip, on their device."""

    frames: ClipFrames
    channels: np.ndarray  # int32 C
    images: Float[Tensor, "f 3 y x"]
    raw: Float[Tensor, "f c h w"]
    refined: Float[Tensor, "f c v u"] | None  # None: left to `cues`
    inverse_depth: Float[Tensor, "f y x"]
    forward: Float[Tensor, "p 2 y x"]
    backward: Float[Tensor, "p 2 y x"]


@dataclass(frozen=True)
class ClipValues:
    """Stored values of one clip before compression; from a GPU, perhaps still being copied to the host."""

    frames: ClipFrames
    stored: Mapping[str, Array]  # by array
    finite: Mapping[str, Array]  # bool per frame or pair, of the networks' results
    await_copies: Callable[[], object] | None = None

    def wait(self) -> dict[str, np.ndarray]:
        if self.await_copies is not None:
            self.await_copies()
        return {name: np.asarray(values) for name, values in self.stored.items()}

    def failure(self) -> str | None:
        """Return which network gave NaN or infinity, and for which frame or pair of the source; None if none did."""
        index = self.frames.selection.frame_index
        pairs = index[self.frames.selection.pair_frames]
        for name, network, frames in (
            ("features_raw", "encoder", index),
            ("depth", "depth network", index),
            ("flow_forward", "flow network", pairs),
            ("flow_backward", "flow network", pairs[:, ::-1]),
        ):
            for frame in frames[~np.asarray(self.finite[name])]:
                where = " to ".join(str(number) for number in np.atleast_1d(frame))
                return (
                    f"expected finite numbers from the {network}, found NaN or infinity for frame {where}; check its "
                    "weights, or pass --precision float32"
                )
        return None


class CueExtractor:
    """The networks and how they are applied. `predict` is for one thread at a time, the other methods for any.

    On a GPU, `predict` and `quantize` only queue work, and never make the host wait.
    """

    def __init__(self, networks: Networks, config: BuildConfig, device: str):
        self.networks, self.config, self.device = networks, config, torch.device(device)
        self.on_gpu = self.device.type == "cuda"
        self.sizes = config.input_sizes(networks.encoder.patch_size)
        if isinstance(networks.depth, DepthFiles):
            del self.sizes["depth"]
        self.geometry = config.geometry(networks.encoder.patch_size, networks.encoder.width)
        self.timer = Timer(self.device)
        self.clip_flops: float | None = None  # of the networks; known after the first pass
        self._batch = default_batch(self.device)
        self._downloads = torch.cuda.Stream(self.device) if self.on_gpu else None
        if self.on_gpu:
            torch.backends.cudnn.benchmark = True  # all passes have one shape
            if config.precision != "float32":
                torch.set_float32_matmul_precision("high")  # TF32 outside autocast
            for network in (networks.encoder, networks.depth, networks.flow):
                if isinstance(network, nn.Module):
                    network.to(memory_format=torch.channels_last)

    def clips_per_pass(self) -> int:
        """Return how many clips to run in one pass: on a GPU up to 4, by its free memory."""
        if not self.on_gpu:
            return 1
        g, maps = self.geometry, 3 * self.geometry.channels + 8 * len(self.config.pamr_dilations)
        clip_bytes = NETWORKS_SHARE * 4 * g.frames * math.prod(g.cue) * maps
        return max(1, min(MAX_PASS, torch.cuda.mem_get_info(self.device)[0] // clip_bytes))

    def predict(self, clips: Sequence[ClipFrames]) -> list[ClipPredictions]:
        """Run the networks on some clips in one pass."""
        encoder, config, frames = self.networks.encoder, self.config, self.geometry.frames
        channels = [select_channels(config.seed, clip.clip_id, encoder.width, self.geometry.channels) for clip in clips]
        pairs = [torch.from_numpy(clip.selection.pair_frames).long() for clip in clips]
        pairs = [torch.cat([own, own.flip(1)]) + index * frames for index, own in enumerate(pairs)]
        counted = self.clip_flops is None and not self.config.compile  # compiled networks are not seen by the counter
        count = FlopCounterMode(display=False) if counted else nullcontext()
        with torch.no_grad(), self._current_device(), count as counter:
            # the host's copies come first, since a GPU would idle between the events
            sizes, kept = set(self.sizes.values()), self._pinned(channels)
            pixels = {size: self._pinned([clip.images[size] for clip in clips]) for size in sizes}
            with self.timer.device("to device"):
                uploaded = {}
                for size, values in pixels.items():  # RGB in [0, 1], on a GPU in channels-last order
                    rgb = values.to(self.device, non_blocking=True).flatten(0, 1).permute(0, 3, 1, 2).float().div_(255)
                    uploaded[size] = rgb if self.on_gpu else rgb.contiguous()
                images = {network: uploaded[size] for network, size in self.sizes.items()}
                kept = kept.to(self.device, torch.long, non_blocking=True)
            with self.timer.device("encoder"):
                tokens = torch.cat([encoder.grid(part) for part in self._parts(images["encoder"])])
                tokens = tokens.unflatten(0, (len(clips), frames))
                raw = tokens.take_along_dim(kept[:, None, :, None, None], dim=2).float()
            with self.timer.device("depth"):
                if isinstance(self.networks.depth, DepthFiles):
                    read = [clip.inverse_depth for clip in clips if clip.inverse_depth is not None]
                    inverse_depth = torch.from_numpy(np.stack(read))
                else:
                    maps = torch.cat([self.networks.depth(part).float() for part in self._parts(images["depth"])])
                    inverse_depth = self._on_cue_grid(maps[:, None])[:, 0].unflatten(0, (len(clips), frames))
            with self.timer.device("flow"):
                flow = self.networks.flow.between(images["flow"], torch.cat(pairs))
                flow = self._on_cue_grid(flow)
                for axis in (0, 1):  # v, u: in pixels of the grid
                    flow[:, 1 - axis] *= self.sizes["cue"][axis] / self.sizes["flow"][axis]
                flow = flow.unflatten(0, (len(clips), 2, -1))
            guides = images["cue"].unflatten(0, (len(clips), frames))
            refined: Tensor | list[None] = [None] * len(clips)
            if self.on_gpu:
                refined = self._refine(raw.flatten(0, 1), images["cue"]).unflatten(0, (len(clips), frames))
        if counter is not None:
            self.clip_flops = counter.get_total_flops() / len(clips)
        return [
            ClipPredictions(clip, channels[i], guides[i], raw[i], refined[i], inverse_depth[i], *flow[i])
            for i, clip in enumerate(clips)
        ]

    def cues(self, predictions: ClipPredictions) -> ClipCues:
        """Return the cues before quantization, as tensors on the device: refined where that is left, and extra cues."""
        frames, selection = predictions.frames, predictions.frames.selection
        refined, extra = predictions.refined, dict[str, Tensor]()
        with torch.no_grad(), self._current_device():
            if refined is None:
                refined = self._refine(predictions.raw, predictions.images)
            if self.config.extra_cues:
                with self.timer.device("extra cues"):
                    extra = {name: DERIVED[name].compute(predictions) for name in self.config.extra_cues}
        return ClipCues(
            rgb=frames.rgb,
            depth=predictions.inverse_depth,
            flow_forward=predictions.forward,
            flow_backward=predictions.backward,
            features=refined,
            features_raw=predictions.raw,
            feature_channels=predictions.channels,
            frame_index=selection.frame_index,
            frame_time=frames.times,
            pair_frames=selection.pair_frames,
            pair_gap=selection.pair_gap,
            extra=extra,
        )

    def on_host(self, predictions: ClipPredictions) -> ClipCues:
        """Return the cues before quantization, as arrays."""
        cues = self.cues(predictions)
        values = {each.name: getattr(cues, each.name) for each in fields(cues)}
        arrays = {name: value.float().cpu().numpy() for name, value in values.items() if isinstance(value, Tensor)}
        return replace(cues, **arrays, extra={name: maps.float().cpu().numpy() for name, maps in cues.extra.items()})

    def quantize(self, predictions: ClipPredictions, arrays: Mapping[str, ArraySpec]) -> ClipValues:
        """Return the stored values; on a GPU, their copies to the host are queued on a separate stream."""
        cues = self.cues(predictions) if self.on_gpu else self.on_host(predictions)
        with torch.no_grad(), self._current_device(), self.timer.device("quantize"):
            stored = stored_values(arrays, cues)
            finite: dict[str, Array] = {}
            for name in ("features_raw", "depth", "flow_forward", "flow_backward"):
                finite[name] = namespace(cues[name]).isfinite(cues[name]).reshape(len(cues[name]), -1).all(-1)
            if self._downloads is None:
                return ClipValues(predictions.frames, stored, finite)
            self._downloads.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._downloads):
                stored, finite = ({k: _download(v) for k, v in part.items()} for part in (stored, finite))
                done = torch.cuda.Event(blocking=True)
                done.record()
        return ClipValues(predictions.frames, stored, finite, done.synchronize)

    def _pinned(self, arrays: Sequence[np.ndarray]) -> Tensor:
        """Return the stack of some arrays, for a GPU in pinned memory."""
        tensors = [torch.from_numpy(array) for array in arrays]
        stack = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, pin_memory=self.on_gpu)
        return torch.stack(tensors, out=stack)

    def _on_cue_grid(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c y x"]:
        """Resize a network's maps bilinearly, antialiased, where its images have another size."""
        if maps.shape[-2:] == self.sizes["cue"]:
            return maps
        return F.interpolate(maps, self.sizes["cue"], mode="bilinear", align_corners=False, antialias=True)

    def _parts(self, maps: Tensor) -> Sequence[Tensor]:
        return maps.split(self._batch or len(maps))

    def _refine(self, raw: Tensor, images: Tensor) -> Tensor:
        """PAMR on the cue grid, then the mean over the cells of the feature grid."""
        config, parts = self.config, zip(self._parts(raw), self._parts(images), strict=True)
        scales = three_scales(self.geometry.cue, config.pamr_iterations)
        affinity = Affinity(dilations=config.pamr_dilations, sigma=config.pamr_sigma)
        with self.timer.device("pamr"):
            refined = (refine(part, guide, scales, affinity) for part, guide in parts)
            return torch.cat([F.adaptive_avg_pool2d(maps, self.geometry.features) for maps in refined])

    def _current_device(self) -> AbstractContextManager[object]:
        """Make the extractor's GPU the calling thread's, which is where a thread's events and kernels go."""
        return torch.cuda.device(self.device) if self.on_gpu else nullcontext()


class Timer:
    """Sums seconds per named part; a GPU's own time is taken by events, which do not make the host wait."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def host(self, part: str) -> Iterator[None]:
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
        """Return the sums since the last call; of a GPU, of the work that is done."""
        with self._lock:
            events, self._events = self._events, []
            for part, start, end in events:
                if end.query():
                    self._sums[part] = self._sums.get(part, 0.0) + start.elapsed_time(end) / 1000
                else:
                    self._events.append((part, start, end))
            sums, self._sums = self._sums, {}
        return sums


def _download(values: Array) -> Array:
    """Queue the copy of a GPU's tensor to the host; return other values as they are."""
    return devices.queue_copy(values) if isinstance(values, Tensor) and values.device.type == "cuda" else values


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
    flat = torch.zeros_like(inward)
    flat[:, 2] = -1
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
DERIVED = {NORMALS.name: Derived(NORMALS, lambda predictions: surface_normals(predictions.inverse_depth))}
