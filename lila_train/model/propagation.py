"""Label propagation: a video's labels are carried from frame to frame by nearest neighbors in feature space.

The engine of `lila-train track` and of the DAVIS protocols `davis-knn@…`. The similarities of all pairs of cells are
never in memory together: the grid is cut into square tiles, and the cells of a tile are compared by one matrix product
with the band of key cells that their windows cover in every context frame, as many tiles at a time as memory allows.
Sources: Jabri et al., Space-Time Correspondence as a Contrastive Random Walk (NeurIPS 2020); Caron et al., DINO (2021).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lila_train.model.resize import Image, Labels, Size, as_input, network_size, to_size
from stores.errors import LilaError

CPU_MEMORY, GPU_MEMORY = 48 * 2**20, 512 * 2**20  # bytes; on a CPU little more than its caches hold is fastest


@dataclass(frozen=True)
class Sizes:
    """Heights and widths of one video: native frames and network input in pixels, the grid of labels in cells."""

    native: Size
    frame: Size
    grid: Size

    def radius_px(self, window: int) -> float:
        """Return how far a window reaches from its center, in pixels of the native frame."""
        return window // 2 * min(self.native) / min(self.grid)


@dataclass(frozen=True)
class Propagation:
    """Settings and steps of the propagation; the defaults are those of `davis-knn@lila`."""

    short_side_px: int | None = None  # of the network input; None: short_side_patches × the encoder's patch size
    short_side_patches: int = 34
    long_side_multiple_px: int | None = None  # long side rounded down to it; None: to the nearest multiple of the patch
    antialias: bool = False  # of frames that are reduced to the network's input
    grid_short_side: int | None = 60  # cells; None: the encoder's own grid
    window: int = 25  # side in cells, odd
    context_frames: int = 8  # the first and the seven latest
    topk: int = 5
    temperature: float = 0.1
    border: str = "replicate"  # beyond the border the window repeats the border's cells; "cut": it ends there

    def __post_init__(self) -> None:
        if self.window % 2 == 0 or self.context_frames < 2:
            found = f"{self.window} and {self.context_frames}"
            raise LilaError(f"expected an odd window and at least 2 frames of context, found {found}")

    def frame_size(self, native: Size, patch_size: int) -> Size:
        """Return the size of the network's input for frames of `native` (height, width) pixels."""
        short_side_px = self.short_side_px or self.short_side_patches * patch_size
        return network_size(native, patch_size, short_side_px, self.long_side_multiple_px)

    def sizes(self, native: Size, patch_size: int) -> Sizes:
        """Return the sizes for frames of `native` (height, width) pixels."""
        frame = self.frame_size(native, patch_size)
        cells = self.grid_short_side or min(frame) // patch_size
        rows, columns = (cells if side == min(frame) else side * cells // min(frame) for side in frame)
        return Sizes(native, frame, (rows, columns))

    @torch.no_grad()
    def unit_features(
        self, frame: Image, feature_map: Callable[[Tensor], Tensor], sizes: Sizes, device: torch.device
    ) -> Float[Tensor, "d h w"]:
        """Return a frame's features, resized bilinearly to the grid and L2-normalized."""
        features = feature_map(as_input(frame, sizes.frame, device, self.antialias))
        return F.normalize(to_size(features, sizes.grid)[0], dim=0)

    def follow(
        self,
        frames: Iterable[Image],
        reference: Labels,
        features_of: Callable[[Image], Float[Tensor, "d h w"]],
        sizes: Sizes,
        memory: int | None = None,
    ) -> Iterator[Labels]:
        """Yield the labels of every frame after the first, at native size.

        Args:
            frames: the video in order.
            reference: labels of the first frame.
            features_of: gives a frame's unit features on the grid, see `unit_features`.
            sizes: of this video, by `sizes`.
            memory: see `propagate`.
        """
        carried = self.carry(map(features_of, frames), {0: reference}, int(reference.max()), sizes, memory)
        next(carried)
        for labels in carried:
            yield self.hard_labels(labels, sizes).to(torch.uint8).cpu().numpy()

    def carry(
        self,
        features: Iterable[Float[Tensor, "d h w"]],
        masks: Mapping[int, Labels],
        objects: int,
        sizes: Sizes,
        memory: int | None = None,
        adjust: Callable[[int, Tensor], Tensor] = lambda index, labels: labels,
    ) -> Iterator[Float[Tensor, "c h w"]]:
        """Yield the soft labels of every frame on the grid: background, then each object.

        Args:
            features: unit features of the frames, in the order in which labels are carried.
            masks: labels of some frames. They replace what was carried of their own objects there, and those frames
                stay in the context; before the first of them all is background.
            objects: number of objects.
            sizes, memory: see `follow`.
            adjust: changes the labels that were carried to a frame, given its number.
        """
        context: Context | None = None
        for index, found in enumerate(features):
            if context is None:
                labels = found.new_zeros(objects + 1, *sizes.grid)
                labels[0] = 1
            else:
                labels = self.propagate(found, context, memory)
            labels = adjust(index, labels)
            if (mask := masks.get(index)) is not None:
                ids = torch.arange(objects + 1, device=found.device)
                one_hot = (torch.from_numpy(mask).to(found.device) == ids[:, None, None]).float()
                marked = self.resize_reference(one_hot, sizes.grid)
                labels = without(labels, mask) * marked[0]
                labels[1:] += marked[1:]
            if context is not None:
                context.add(found, labels, reference=mask is not None)
            elif mask is not None:
                context = Context(self.context_frames, found, labels)
            yield labels

    def propagate(
        self, features: Float[Tensor, "d h w"], context: Context, memory: int | None = None, tile: int = 12
    ) -> Float[Tensor, "c h w"]:
        """Return the soft labels of a frame with these unit features.

        `memory` (bytes of temporary tensors; None: what is fastest on the device) and `tile` (cells) change time and
        memory, not the labels.
        """
        height, width = context.grid
        tiles = tile_grid(height, width, self.window // 2, min(tile, height, width), features.device)
        frame_starts = torch.arange(len(context.features), device=features.device) * (height * width)
        per_key = context.features.shape[-1] + context.labels.shape[-1] + 3 * tiles.queries.shape[1]
        tile_bytes = 4 * per_key * len(frame_starts) * tiles.keys.shape[1]  # of float32
        if memory is None:
            memory = CPU_MEMORY if features.device.type == "cpu" else GPU_MEMORY
        step = max(1, memory // tile_bytes)
        queries = features.flatten(1).T.contiguous()
        labels = features.new_empty(height * width, context.labels.shape[-1])
        for start in range(0, len(tiles.keys), step):
            part = slice(start, start + step)
            cells = tiles.queries[part]
            keys = (tiles.keys[part, None, :] + frame_starts[:, None]).flatten(1)
            similarities = queries[cells] @ _gather(context.features, keys).mT
            by_frame = similarities.unflatten(-1, (len(frame_starts), -1))
            by_frame += tiles.outside_window[:, None, :]
            if self.border == "cut":
                by_frame += tiles.outside_grid[part][:, None, None, :]
            labels[cells] = self.vote(similarities, _gather(context.labels, keys))
        return labels.T.unflatten(1, (height, width))

    def vote(self, similarities: Float[Tensor, "n m k"], labels: Float[Tensor, "n k c"]) -> Float[Tensor, "n m c"]:
        """Return the labels of the `topk` most similar keys, averaged by the softmax of similarity/temperature."""
        values, places = similarities.topk(min(self.topk, similarities.shape[-1]), dim=-1)
        weights = torch.softmax(values / self.temperature, dim=-1)
        index = places.flatten(1)[..., None].expand(-1, -1, labels.shape[-1])
        return torch.einsum("nmt,nmtc->nmc", weights, labels.gather(1, index).unflatten(1, places.shape[1:]))

    def resize_reference(self, one_hot: Float[Tensor, "c H W"], grid: Size) -> Float[Tensor, "c h w"]:
        """Bring the first frame's labels to the grid: bilinear."""
        return to_size(one_hot[None], grid)[0]

    def hard_labels(self, soft: Float[Tensor, "c h w"], sizes: Sizes) -> Int[Tensor, "H W"]:
        """Return an object id per native pixel: bilinear upsampling, then the largest."""
        return to_size(soft[None], sizes.native)[0].argmax(dim=0)


def without(labels: Float[Tensor, "c h w"], mask: Labels) -> Float[Tensor, "c h w"]:
    """Return soft labels in which the objects of a mask are background."""
    own = [int(label) for label in np.unique(mask) if label]
    labels = labels.clone()
    labels[0] += labels[own].sum(0)
    labels[own] = 0
    return labels


class Context:
    """The frames that labels come from: reference frames, which stay, and the latest ones; memory is allocated once."""

    def __init__(self, size: int, features: Float[Tensor, "d h w"], labels: Float[Tensor, "c h w"]) -> None:
        """Start with a reference frame: unit features and soft labels, on the same grid and device."""
        self.grid = (features.shape[1], features.shape[2])
        self._features = features.new_empty(size, *self.grid, len(features))
        self._labels = labels.new_empty(size, *self.grid, len(labels))
        self._seen = 0
        self._replaceable: deque[int] = deque()  # slots, the oldest frame's first
        self.add(features, labels, reference=True)

    def add(self, features: Float[Tensor, "d h w"], labels: Float[Tensor, "c h w"], reference: bool = False) -> None:
        """Add the next frame; it replaces the oldest that is no reference. One frame at least stays replaceable."""
        size = len(self._features)
        slot = self._seen if self._seen < size else self._replaceable.popleft()
        self._features[slot] = features.movedim(0, -1)
        self._labels[slot] = labels.movedim(0, -1)
        self._seen = min(self._seen + 1, size)
        if not reference or self._seen - len(self._replaceable) == size:
            self._replaceable.append(slot)

    @property
    def features(self) -> Float[Tensor, "t h w d"]:
        return self._features[: self._seen]

    @property
    def labels(self) -> Float[Tensor, "t h w c"]:
        return self._labels[: self._seen]


@dataclass(frozen=True)
class TileIndex:
    """Query cells of each tile, and the key cells that they are compared with (flat indices, row by row)."""

    queries: Int[Tensor, "n m"]
    keys: Int[Tensor, "n k"]
    outside_window: Float[Tensor, "m k"]  # −∞ beyond the window of that query, wherever the tile lies, else 0
    outside_grid: Float[Tensor, "n k"]  # −∞ in the replicated border, 0 in the grid


def tile_grid(height: int, width: int, radius: int, side: int, device: torch.device) -> TileIndex:
    """Cut a grid into square tiles; those of the last row and column overlap their neighbors to stay inside."""
    tops, lefts = (
        torch.tensor([min(start, length - side) for start in range(0, length, side)], device=device)
        for length in (height, width)
    )
    own, band = torch.arange(side, device=device), torch.arange(-radius, side + radius, device=device)
    rows, columns = tops[:, None] + band, lefts[:, None] + band
    near = (band - own[:, None]).abs() <= radius
    return TileIndex(
        queries=_flat(tops[:, None] + own, lefts[:, None] + own, width),
        keys=_flat(rows.clamp(0, height - 1), columns.clamp(0, width - 1), width),
        outside_window=_penalty(near, near),
        outside_grid=_penalty((rows >= 0) & (rows < height), (columns >= 0) & (columns < width)),
    )


def _flat(rows: Int[Tensor, "a p"], columns: Int[Tensor, "b q"], width: int) -> Int[Tensor, "ab pq"]:
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten(0, 1).flatten(1)


def _penalty(rows: Bool[Tensor, "a p"], columns: Bool[Tensor, "b q"]) -> Float[Tensor, "ab pq"]:
    """Return 0 where both are allowed, else −∞: on a CPU, adding it is several times faster than filling by a mask."""
    allowed = (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1).flatten(1)
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, -torch.inf)


def _gather(values: Float[Tensor, "t h w c"], cells: Int[Tensor, "n k"]) -> Float[Tensor, "n k c"]:
    return values.flatten(0, 2).index_select(0, cells.flatten()).unflatten(0, cells.shape)
