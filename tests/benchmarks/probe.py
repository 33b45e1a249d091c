"""The linear probe of one 480p sequence: the fast solver against the plain loop of 2,000 full-batch iterations.

    python -m tests.benchmarks.probe [--encoder 384] [--pixel 128]

Features are smooth random maps, mixed with the labels so that the probe has something to find.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lila_train.evaluation.davis.linear_probe import LpSettings, Problem, fit, fit_fast, initial_parameters
from tests.benchmarks import figures, meter
from tests.benchmarks.figures import Bar, Quantity

NATIVE, FRAME, GRID = (480, 854), (476, 840), (34, 60)
OBJECTS = 2
FASTER = Quantity("linear probe: times faster than the plain loop", "×")
LOSS = Quantity("linear probe: difference of the final loss from the plain loop's", "", Bar("at most", 1e-4))
FIGURES = (FASTER, LOSS)


class Counted(Problem):
    """A problem that counts the gradients of its loss; the fast solver's coarse problem is not counted."""

    gradients = 0

    def loss(self, parameters: Tensor) -> Tensor:
        Counted.gradients += 1
        return super().loss(parameters)


def smooth(channels: int, size: tuple[int, int], cells: int, draw: torch.Generator) -> Tensor:
    """Random, with structure of that many cells along the short side."""
    coarse = torch.randn(1, channels, cells, 2 * cells, generator=draw)
    return F.interpolate(coarse, size, mode="bicubic")[0]


def example(encoder: int, pixel: int) -> Problem:
    """Two objects on a background, a grid of tokens and a map of the pixels."""
    draw = torch.Generator().manual_seed(0)
    labels = smooth(OBJECTS + 1, NATIVE, 5, draw).argmax(dim=0)
    target = F.one_hot(labels).movedim(-1, 0).float()
    maps = []
    for channels, size, cells in ((encoder, GRID, 12), (pixel, FRAME, 40)):
        seen = F.interpolate(target[None], size, mode="area")[0]
        told = torch.einsum("kyx,kc->cyx", seen, torch.randn(OBJECTS + 1, channels, generator=draw))
        maps.append(smooth(channels, size, cells, draw) + 0.3 * told)
    return Counted(maps, target)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of CPU time and result."""
    began = meter.clock("cpu")
    result = work()
    return meter.clock("cpu") - began, result


def main() -> None:
    """Print the table."""
    from rich.table import Table

    from lila_cues.console import out

    parser = figures.parser(__doc__)
    parser.add_argument("--encoder", type=int, default=384, help="channels of the encoder's grid")
    parser.add_argument("--pixel", type=int, default=128, help="channels of the pixel map")
    chosen = parser.parse_args()
    problem = example(chosen.encoder, chosen.pixel)
    channels = [len(features) for features in problem.maps]
    start = initial_parameters(len(problem.target), channels, 0, "benchmark")
    lp = LpSettings()
    fast_seconds, fast = timed(lambda: fit_fast(problem, start, lp))
    fast_gradients = Counted.gradients
    plain_seconds, plain = timed(lambda: fit(problem, start, lp))
    fast_loss, plain_loss = (problem.loss(parameters).item() for parameters in (fast, plain))
    title = f"linear probe, {lp.iterations} iterations, {chosen.encoder} + {chosen.pixel} channels"
    table = Table("", "seconds", "full gradients", "final loss", title=title)
    table.add_row("plain loop", f"{plain_seconds:.1f}", str(lp.iterations), f"{plain_loss:.6f}")
    table.add_row("fast solver", f"{fast_seconds:.1f}", str(fast_gradients), f"{fast_loss:.6f}")
    out.print(table)
    settings = f"{lp.iterations} iterations, {chosen.encoder} + {chosen.pixel} channels, 480p"
    measured = [
        FASTER.figure(plain_seconds / fast_seconds, settings),
        LOSS.figure(abs(fast_loss - plain_loss), settings),
    ]
    figures.hand_back(chosen.figures, FIGURES, measured)


if __name__ == "__main__":
    main()
