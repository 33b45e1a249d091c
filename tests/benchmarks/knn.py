"""k-NN propagation of one frame of a 480p sequence: ours against a dense affinity between all cells, as DINO's has it.

    python -m tests.benchmarks.knn [--depth 384]

Window 25², 8 context frames, top 5. Each case runs in a process of its own, so that its peak memory is its own. Seconds
on a CPU are those of the process, so that other work on the machine counts little.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lila_train.model.propagation import Context, Propagation
from tests.benchmarks import figures, meter
from tests.benchmarks.figures import Bar, Figure, Quantity

FRAMES, OBJECTS, WINDOW, TOP, TEMPERATURE = 8, 3, 25, 5, 0.1
GRIDS = {60: (60, 105), 120: (120, 210)}
FASTER = {
    60: Quantity("k-NN propagation at 60 cells: times faster than a dense affinity", "×", Bar("at least", 1)),
    120: Quantity("k-NN propagation at 120 cells: times faster than a dense affinity", "×", Bar("at least", 3)),
}
MEMORY = Quantity("k-NN propagation: extra memory", "GB", Bar("below", 1))
FIGURES = (*FASTER.values(), MEMORY)
QUERIES_AT_ONCE = 1024  # of the dense baseline: whole, 120 cells would take 20 GB


@dataclass(frozen=True)
class Case:
    """One measurement; `repeats` frames after one that warms up."""

    method: str
    cells: int
    depth: int
    repeats: int


@dataclass(frozen=True)
class Measured:
    """Seconds per frame, and the peak of memory above what the features and labels themselves take."""

    seconds: float
    extra_mib: float
    labels: Tensor


def smooth_features(frames: int, depth: int, grid: tuple[int, int]) -> Tensor:
    """Unit features that change slowly over the frame, as real ones do."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(frames, depth, 12, 20, generator=draw)
    return F.normalize(F.interpolate(coarse, grid, mode="bicubic"), dim=1)


def ours(query: Tensor, features: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """The project's implementation, with its default memory."""
    context = Context(len(features), features[0], labels[0])
    for frame, soft in zip(features[1:], labels[1:], strict=True):
        context.add(frame, soft)
    rule = Propagation(window=WINDOW, topk=TOP, temperature=TEMPERATURE, border="cut")
    return lambda: rule.propagate(query, context).flatten(1)


def dense(query: Tensor, features: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    """Every cell against every cell of every context frame, masked to the window afterwards."""
    height, width = query.shape[1:]
    keys, votes = features.flatten(2), labels.movedim(1, 0).flatten(1)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=query.device), torch.arange(width, device=query.device), indexing="ij"
    )
    place = torch.stack([rows.flatten(), columns.flatten()]).to(torch.int16)
    outside = [
        ((part[:, :, None] - place[:, None, :]).abs() > WINDOW // 2).any(dim=0)
        for part in place.split(QUERIES_AT_ONCE, dim=1)
    ]
    queries = query.flatten(1).T.contiguous()

    def frame() -> Tensor:
        parts = []
        for part, far in zip(queries.split(QUERIES_AT_ONCE), outside, strict=True):
            scores = torch.einsum("md,tdn->mtn", part, keys).masked_fill_(far[:, None], -torch.inf).flatten(1)
            values, places = scores.topk(TOP, dim=1)
            parts.append((torch.softmax(values / TEMPERATURE, dim=1) * votes[:, places]).sum(dim=-1))
        return torch.cat(parts, dim=1)

    return frame


METHODS = {"ours": ours, "dense": dense}


def measure(case: Case) -> Measured:
    """Run one case in this process."""
    grid = GRIDS[case.cells]
    frames = smooth_features(FRAMES + 1, case.depth, grid)
    labels = torch.rand(FRAMES, OBJECTS + 1, *grid, generator=torch.Generator().manual_seed(1))
    before = meter.begin_peak_mib("cpu")
    run = METHODS[case.method](frames[-1], frames[:-1], labels)
    found = run()
    began = meter.clock("cpu")
    for _ in range(case.repeats):
        run()
    return Measured((meter.clock("cpu") - began) / case.repeats, meter.peak_mib("cpu") - before, found.cpu())


def _in_a_process(case: Case) -> Measured:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (case,))


def main() -> None:
    """Print the table."""
    from rich.table import Table

    from lila_cues.console import out

    parser = figures.parser(__doc__)
    parser.add_argument("--depth", type=int, default=128, help="channels of a feature: 128 LILA-S, 384 ViT-S")
    chosen = parser.parse_args()
    title = f"k-NN propagation, {chosen.depth} channels, window {WINDOW}², {FRAMES} context frames"
    table = Table(
        "cells", "dense s", "ours s", "times faster", "dense MiB", "ours MiB", "labels that differ", title=title
    )
    found: list[Figure] = []
    for cells, grid in GRIDS.items():
        repeats = 3 if cells == 60 else 1
        slow, fast = (_in_a_process(Case(name, cells, chosen.depth, repeats)) for name in ("dense", "ours"))
        differ = (slow.labels.argmax(dim=0) != fast.labels.argmax(dim=0)).sum().item()
        faster = slow.seconds / fast.seconds
        seconds = f"{slow.seconds:.3f}", f"{fast.seconds:.3f}", f"{faster:.1f}"
        memory = f"{slow.extra_mib:.0f}", f"{fast.extra_mib:.0f}"
        table.add_row(f"{grid[0]}×{grid[1]}", *seconds, *memory, f"{differ} of {slow.labels.shape[1]}")
        settings = f"{grid[0]}×{grid[1]} cells, {chosen.depth} channels"
        found.append(FASTER[cells].figure(faster, f"{settings}, window {WINDOW}², {FRAMES} frames"))
        found.append(MEMORY.figure(fast.extra_mib * 2**20 / 1e9, settings))
    out.print(table)
    figures.hand_back(chosen.figures, FIGURES, found)


if __name__ == "__main__":
    main()
