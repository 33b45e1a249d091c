"""The cost of the solve, forward and backward, over the number of pixels N it is fitted on and the feature width d.

python -m tests.benchmarks.solve

Three tables. `fit` is `ridge.fit` on a view of N pixels, which are averaged to 32² first, as in training. `ridge`
fits on all N: there the d×d system is only the smaller part, forming it takes N·d² operations. The dual form, whose
system has the size N×N, is shown for the smallest N. `system` is the d×d system of N pixels, without forming it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from rich.table import Table
from torch import Tensor

from lila_cues.console import out
from lila_train.training import ridge
from tests.benchmarks import figures
from tests.benchmarks.figures import Bar, Figure, Quantity

# What does not grow with N is the d×d system; a quarter is left for the clock. Forming it takes every pixel once.
ALONE = Quantity("the d×d system alone: time with N = 128², of N = 32²", "×", Bar("at most", 1.25))
FIT = Quantity("the fit, averaging included: time with N = 128², of N = 32²", "×")
WIDER = Quantity("the fit: time with d = 384, of d = 128", "×")
FIGURES = (ALONE, FIT, WIDER)
SIDES, WIDTHS = (32, 64, 128), (128, 192, 256, 384)
BATCH, CUES, CELLS, STRENGTH, REPEATS = 4, 35, 32, 0.1, 7

Measure = Callable[[int, int], float]


def dual(features: Tensor, cues: Tensor, weights: Tensor) -> Tensor:
    """The same map by a system of the size of the pixels: X̂ᵀ(X̂X̂ᵀ + λI)⁻¹Ŷ with rows scaled by √(c/N)."""
    scale = (weights / features.shape[1]).sqrt().unsqueeze(-1)
    x, y = features * scale, cues * scale
    gram = x @ x.mT + STRENGTH * torch.eye(x.shape[1], device=x.device)
    return x.mT @ torch.linalg.solve(gram, y)


def milliseconds(solve: Callable[[Tensor], Tensor], features: Tensor) -> float:
    """Median of forward and backward."""
    found = []
    for _ in range(REPEATS):
        features = features.detach().requires_grad_()
        began = time.perf_counter()
        solve(features).square().sum().backward()
        found.append(time.perf_counter() - began)
    return 1000 * statistics.median(found)


def fitted(side: int, width: int) -> float:
    """`ridge.fit` on a view of side² pixels."""
    cues, masks = torch.randn(BATCH, CUES, side, side), torch.ones(BATCH, 1, side, side)
    features = torch.randn(BATCH, width, side, side)
    return milliseconds(lambda x: ridge.fit(x, cues, masks, cells=CELLS, strength=STRENGTH), features)


def solved(side: int, width: int) -> float:
    """`ridge.solve` on side² pixels."""
    cues, weights = torch.randn(BATCH, side**2, CUES), torch.rand(BATCH, side**2)
    return milliseconds(lambda x: ridge.solve(x, cues, weights, STRENGTH), torch.randn(BATCH, side**2, width))


def system(side: int, width: int) -> float:
    """Factorising and solving the d×d system of side² pixels, once it is formed; the moment carries the gradient."""
    x, y = torch.randn(BATCH, side**2, width), torch.randn(BATCH, side**2, CUES)
    gram = x.mT @ x / side**2 + STRENGTH * torch.eye(width)
    return milliseconds(lambda moment: torch.cholesky_solve(moment, torch.linalg.cholesky(gram)), x.mT @ y / side**2)


def by_dual(side: int, width: int) -> float:
    """`dual` on side² pixels; checked against `ridge.solve`."""
    draw = torch.Generator().manual_seed(0)
    cues, weights, features = (
        torch.rand(shape, generator=draw)
        for shape in ((BATCH, side**2, CUES), (BATCH, side**2), (BATCH, side**2, width))
    )
    torch.testing.assert_close(
        dual(features, cues, weights), ridge.solve(features, cues, weights, STRENGTH), rtol=1e-2, atol=1e-3
    )
    return milliseconds(lambda x: dual(x, cues, weights), features)


def main() -> None:
    """Print the tables."""
    parser = figures.parser(__doc__)
    options = parser.parse_args()
    out.print(f"ms, forward and backward, {BATCH} samples, {CUES} cues, {torch.get_num_threads()} threads")
    fit = _shown(f"fit: averaged to {CELLS}², then solved", fitted)
    _shown("ridge: on all N", solved, {f"{SIDES[0]}², dual": (by_dual, SIDES[0])})
    alone = _shown("system: d×d, formed before", system)
    figures.hand_back(options.figures, FIGURES, _figures(fit, alone))


def _shown(
    title: str, measure: Measure, more: Mapping[str, tuple[Measure, int]] | None = None
) -> dict[tuple[int, int], float]:
    """Print a table over N and d, `more` below it; milliseconds of each side and width."""
    table = Table("N", *(f"d = {width}" for width in WIDTHS), title=title, title_justify="left")
    found = {(side, width): measure(side, width) for side in SIDES for width in WIDTHS}
    for side in SIDES:
        table.add_row(f"{side}²", *(f"{found[side, width]:.1f}" for width in WIDTHS))
    for name, (other, side) in (more or {}).items():
        table.add_row(name, *(f"{other(side, width):.1f}" for width in WIDTHS))
    out.print(table)
    return found


def _figures(fit: dict[tuple[int, int], float], alone: dict[tuple[int, int], float]) -> list[Figure]:
    few, many, narrow, wide = SIDES[0], SIDES[-1], WIDTHS[0], WIDTHS[-1]
    return [
        *(ALONE.figure(alone[many, width] / alone[few, width], f"d = {width}") for width in (narrow, wide)),
        *(FIT.figure(fit[many, width] / fit[few, width], f"d = {width}") for width in (narrow, wide)),
        *(WIDER.figure(fit[side, wide] / fit[side, narrow], f"N = {side}²") for side in (few, many)),
    ]


if __name__ == "__main__":
    main()
