"""Labels carried from context frames to the next by their nearest neighbours in feature space, within a window.

Never (HW)²: the grid is cut into square tiles, and a tile's cells are compared with the band of key cells that their
windows reach, in every context frame at once, by one matrix product; as many tiles at a time as the memory allows.
Source: Jabri et al., Space-Time Correspondence as a Contrastive Random Walk (NeurIPS 2020); Caron et al., DINO (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FLOAT_BYTES = 4

Similarities = Float[Tensor, "n m k"]
KeyLabels = Float[Tensor, "n k c"]
Weigh = Callable[[Similarities, KeyLabels, int, float], Float[Tensor, "n m c"]]


@dataclass(frozen=True)
class Neighbours:
    """Who votes on a cell's label, and how much.

    A window has an odd side, in cells. `replicate`: beyond the border the window holds the border's cells again (each
    copy may be among the `top`); otherwise it ends there. Weights are of cosine/temperature.
    """

    window: int
    top: int
    temperature: float
    replicate: bool
    weigh: Weigh


@dataclass(frozen=True)
class Budget:
    """How a frame is cut up; changes time and memory, not the labels. `memory` is in bytes, for what is temporary."""

    memory: int = 48 * 2**20
    tile: int = 12

    @classmethod
    def for_device(cls, device: torch.device, memory: int | None = None) -> Budget:
        """`memory`, or what is fastest there: on a CPU little more than its caches hold, on a GPU much at once."""
        return cls(memory or (cls.memory if device.type == "cpu" else 512 * 2**20))


class Context:
    """The frames that labels come from: the first, for good, and the `size − 1` latest; memory is allocated once."""

    def __init__(self, size: int, features: Float[Tensor, "d h w"], labels: Float[Tensor, "c h w"]) -> None:
        """Begin with the reference frame: unit features and soft labels, on the same grid and device."""
        self.grid = (features.shape[1], features.shape[2])
        self._features = features.new_empty(size, *self.grid, len(features))
        self._labels = labels.new_empty(size, *self.grid, len(labels))
        self._seen = 0
        self.add(features, labels)

    def add(self, features: Float[Tensor, "d h w"], labels: Float[Tensor, "c h w"]) -> None:
        """Take in the next frame; the oldest but the first gives way to it."""
        size = len(self._features)
        slot = self._seen if self._seen < size else 1 + (self._seen - 1) % (size - 1)
        self._features[slot] = features.movedim(0, -1)
        self._labels[slot] = labels.movedim(0, -1)
        self._seen += 1

    @property
    def features(self) -> Float[Tensor, "t h w d"]:
        """Unit features of the frames present."""
        return self._features[: self._seen]

    @property
    def labels(self) -> Float[Tensor, "t h w c"]:
        """Soft labels of the frames present."""
        return self._labels[: self._seen]


@dataclass(frozen=True)
class TileIndex:
    """Which cells each tile asks, and which key cells it compares them with (flat indices, row by row)."""

    queries: Int[Tensor, "n m"]
    keys: Int[Tensor, "n k"]
    unreached: Float[Tensor, "m k"]  # −∞ beyond the window of that query, wherever the tile lies, else 0
    beyond: Float[Tensor, "n k"]  # −∞ in the replicated border, 0 in the grid


def softmax_of_top(
    similarities: Similarities, labels: KeyLabels, top: int, temperature: float
) -> Float[Tensor, "n m c"]:
    """Exactly `top` neighbours vote, by the softmax of their similarities."""
    values, places = similarities.topk(min(top, similarities.shape[-1]), dim=-1)
    weights = torch.softmax(values / temperature, dim=-1)
    index = places.flatten(1)[..., None].expand(-1, -1, labels.shape[-1])
    voters = labels.gather(1, index).unflatten(1, places.shape[1:])
    return torch.einsum("nmt,nmtc->nmc", weights, voters)


def share_of_top(similarities: Similarities, labels: KeyLabels, top: int, temperature: float) -> Float[Tensor, "n m c"]:
    """Everybody as near as the `top`-th votes (ties all count), by the share of exp(score/temperature)."""
    last = similarities.topk(min(top, similarities.shape[-1]), dim=-1).values[..., -1:]
    weights = torch.exp(similarities / temperature).masked_fill(similarities < last, 0.0)
    return (weights / weights.sum(dim=-1, keepdim=True)) @ labels


def propagate(
    features: Float[Tensor, "d h w"], context: Context, rule: Neighbours, budget: Budget
) -> Float[Tensor, "c h w"]:
    """Soft labels of a frame with these unit features."""
    height, width = context.grid
    tiling = tile_grid(height, width, rule.window // 2, min(budget.tile, height, width), features.device)
    queries = features.flatten(1).T.contiguous()
    labels = features.new_empty(height * width, context.labels.shape[-1])
    for tiles in _affordable(tiling, context, budget.memory):
        labels[tiles.queries] = _vote(queries[tiles.queries], context, tiles, rule)
    return labels.T.unflatten(1, (height, width))


def tile_grid(height: int, width: int, radius: int, side: int, device: torch.device) -> TileIndex:
    """Cut a grid into square tiles; those of the last row and column overlap their neighbours rather than jut out."""
    tops, lefts = (torch.tensor(_starts(length, side), device=device) for length in (height, width))
    own, band = torch.arange(side, device=device), torch.arange(-radius, side + radius, device=device)
    rows, columns = tops[:, None] + band, lefts[:, None] + band
    near = (band - own[:, None]).abs() <= radius
    return TileIndex(
        queries=_flat(tops[:, None] + own, lefts[:, None] + own, width),
        keys=_flat(rows.clamp(0, height - 1), columns.clamp(0, width - 1), width),
        unreached=_penalty(_outer(near, near)),
        beyond=_penalty(_outer((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))),
    )


def _starts(length: int, side: int) -> list[int]:
    return [min(start, length - side) for start in range(0, length, side)]


def _flat(rows: Int[Tensor, "a p"], columns: Int[Tensor, "b q"], width: int) -> Int[Tensor, "ab pq"]:
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten(0, 1).flatten(1)


def _outer(rows: Bool[Tensor, "a p"], columns: Bool[Tensor, "b q"]) -> Bool[Tensor, "ab pq"]:
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1).flatten(1)


def _penalty(allowed: Bool[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    """What to add to similarities: several times faster on a CPU than filling by a mask."""
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill_(~allowed, -torch.inf)


def _affordable(tiling: TileIndex, context: Context, memory: int) -> Iterator[TileIndex]:
    """Runs of tiles whose keys, similarities and exponentials fit the memory; one tile at least."""
    n_keys = len(context.features) * tiling.keys.shape[1]
    floats = n_keys * (context.features.shape[-1] + context.labels.shape[-1] + 3 * tiling.queries.shape[1])
    step = max(1, memory // (floats * FLOAT_BYTES))
    for start in range(0, len(tiling.keys), step):
        part = slice(start, start + step)
        yield TileIndex(tiling.queries[part], tiling.keys[part], tiling.unreached, tiling.beyond[part])


def _vote(
    queries: Float[Tensor, "n m d"], context: Context, tiles: TileIndex, rule: Neighbours
) -> Float[Tensor, "n m c"]:
    times = torch.arange(len(context.features), device=queries.device) * (context.grid[0] * context.grid[1])
    places = (tiles.keys[:, None, :] + times[:, None]).flatten(1)
    similarities = queries @ _taken(context.features, places).mT
    by_frame = similarities.unflatten(-1, (len(times), -1))
    by_frame += tiles.unreached[:, None, :]
    if not rule.replicate:
        by_frame += tiles.beyond[:, None, None, :]
    return rule.weigh(similarities, _taken(context.labels, places), rule.top, rule.temperature)


def _taken(values: Float[Tensor, "t h w c"], places: Int[Tensor, "n k"]) -> Float[Tensor, "n k c"]:
    return values.flatten(0, 2).index_select(0, places.flatten()).unflatten(0, places.shape)
