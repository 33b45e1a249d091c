"""PAMR against the same formulas with `unfold`: CPU time and extra memory, one thread, in one run.

python -m tests.benchmarks.pamr [SIZE CHANNELS ITERATIONS REPEATS]
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lila_cues.console import out
from lila_cues.pamr import Stage, refine
from tests.benchmarks import figures, meter
from tests.benchmarks.figures import Bar, Figure, Quantity

DILATIONS = (1, 3, 5)
FASTER = Quantity("PAMR: times faster than unfold", "×", Bar("at least", 30))
MEMORY = Quantity("PAMR: extra memory, of that of unfold", "×", Bar("at most", 1 / 6))
FIGURES = (FASTER, MEMORY)


@dataclass(frozen=True)
class Case:
    """A map of `channels` × size², refined by an image of the same size."""

    size: int = 224
    channels: int = 64
    iterations: int = 10
    repeats: int = 5

    def inputs(self) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, self.size // 8, self.size // 8, generator=draw)
        image = F.interpolate(image, size=(self.size, self.size), mode="bilinear")
        return torch.randn(1, self.channels, self.size, self.size, generator=draw), image


@dataclass(frozen=True)
class Measured:
    """Median seconds of a call, and the memory in MB that a call takes on top of what was there before."""

    seconds: float
    extra_mb: float


def ours(features: Tensor, image: Tensor, iterations: int) -> Tensor:
    return refine(features, image, (Stage(None, iterations),))


def unfolded(features: Tensor, image: Tensor, iterations: int) -> Tensor:
    """The same refinement by one copy of the map per neighbour, as published implementations have it."""
    near = _neighbours(image)
    deviation = torch.cat([near, image[:, :, None].expand(-1, -1, 3, -1, -1)], dim=2).std(dim=2, keepdim=True)
    similarity = -(near - image[:, :, None]).abs() / (1e-5 + 0.05 * deviation)
    weights = similarity.mean(dim=1, keepdim=True).softmax(dim=2)
    for _ in range(iterations):
        features = (_neighbours(features) * weights).sum(dim=2)
    return features


def _neighbours(maps: Tensor) -> Tensor:
    """B×C×H×W to B×C×24×H×W."""
    windows = [
        F.unfold(F.pad(maps, (dilation,) * 4, mode="replicate"), 3, dilation=dilation).unflatten(1, (maps.shape[1], 9))
        for dilation in DILATIONS
    ]
    halves = [half for window in windows for half in (window[:, :, :4], window[:, :, 5:])]
    return torch.cat(halves, dim=2).unflatten(3, maps.shape[-2:])


def measure(implementation: Callable[[Tensor, Tensor, int], Tensor], case: Case) -> Measured:
    """Run in a process of its own, so that neither sees the other's memory."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure, (implementation, case))


def _measure(implementation: Callable[[Tensor, Tensor, int], Tensor], case: Case) -> Measured:
    torch.set_num_threads(1)
    features, image = case.inputs()
    implementation(features[:, :2, :32, :32].contiguous(), image[..., :32, :32].contiguous(), 1)
    before = meter.status_mib("VmRSS")
    implementation(features, image, case.iterations)
    extra = meter.status_mib("VmHWM") - before
    seconds = meter.median_seconds(lambda: implementation(features, image, case.iterations), "cpu", case.repeats)
    return Measured(seconds, extra)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("numbers", nargs="*", type=int, metavar="SIZE CHANNELS ITERATIONS REPEATS")
    options = parser.parse_args()
    figures.hand_back(options.figures, FIGURES, _measured(Case(*options.numbers)))


def _measured(case: Case) -> list[Figure]:
    """Measure, and print the table."""
    from rich.table import Table

    slow, fast = measure(unfolded, case), measure(ours, case)
    table = Table(title=f"PAMR, {case.channels} channels at {case.size}², {case.iterations} iterations, one CPU thread")
    for heading in ("", "seconds", "extra MB", "times faster", "times less memory"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("unfold", f"{slow.seconds:.2f}", f"{slow.extra_mb:.0f}", "", "")
    table.add_row(
        "lila_cues.pamr",
        f"{fast.seconds:.3f}",
        f"{fast.extra_mb:.0f}",
        f"{slow.seconds / fast.seconds:.0f}",
        f"{slow.extra_mb / fast.extra_mb:.1f}",
    )
    out.print(table)
    settings = f"{case.channels} channels at {case.size}², {case.iterations} iterations, one thread"
    return [
        FASTER.figure(slow.seconds / fast.seconds, settings),
        MEMORY.figure(fast.extra_mb / slow.extra_mb, settings),
    ]


if __name__ == "__main__":
    main()
