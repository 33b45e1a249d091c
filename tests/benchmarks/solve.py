"""The cost of the solve, forward and backward, over the number of pixels N it is fitted on and the feature width d.

python -m tests.benchmarks.solve [--device cpu]

Two tables. `fit` is `fit_context` on a view of N pixels, which are averaged to 32² first, as in training. `ridge` fits
on all N: there the d×d system is only the smaller part, forming it takes N·d² operations. The dual form, whose system
has the size N×N, is shown for the smallest N.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.table import Table
from torch import Tensor

from lila_train.solve import fit_context, ridge
from stores.console import out

SIDES, WIDTHS = (32, 64, 128), (128, 192, 256, 384)
BATCH, CUES, CELLS, STRENGTH, REPEATS = 4, 35, 32, 0.1, 7


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
        _wait(features)
        began = time.perf_counter()
        solve(features).square().sum().backward()
        _wait(features)
        found.append(time.perf_counter() - began)
    return 1000 * statistics.median(found)


def _wait(values: Tensor) -> None:
    if values.device.type == "cuda":
        torch.cuda.synchronize()


def fitted(side: int, width: int, device: str) -> float:
    """`fit_context` on a view of side² pixels."""
    cues, masks = torch.randn(BATCH, CUES, side, side, device=device), torch.ones(BATCH, 1, side, side, device=device)
    features = torch.randn(BATCH, width, side, side, device=device)
    return milliseconds(lambda x: fit_context(x, cues, masks, cells=CELLS, strength=STRENGTH), features)


def solved(side: int, width: int, device: str) -> float:
    """`ridge` on side² pixels."""
    cues, weights = torch.randn(BATCH, side**2, CUES, device=device), torch.rand(BATCH, side**2, device=device)
    return milliseconds(lambda x: ridge(x, cues, weights, STRENGTH), torch.randn(BATCH, side**2, width, device=device))


def by_dual(side: int, width: int, device: str) -> float:
    """`dual` on side² pixels; checked against `ridge`."""
    draw = torch.Generator().manual_seed(0)
    cues, weights, features = (
        torch.rand(shape, generator=draw).to(device)
        for shape in ((BATCH, side**2, CUES), (BATCH, side**2), (BATCH, side**2, width))
    )
    torch.testing.assert_close(
        dual(features, cues, weights), ridge(features, cues, weights, STRENGTH), rtol=1e-2, atol=1e-3
    )
    return milliseconds(lambda x: dual(x, cues, weights), features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    out.print(f"ms, forward and backward, {BATCH} samples, {CUES} cues, on {device}, {torch.get_num_threads()} threads")
    for title, measure in ((f"fit: averaged to {CELLS}², then solved", fitted), ("ridge: on all N", solved)):
        table = Table("N", *(f"d = {width}" for width in WIDTHS), title=title, title_justify="left")
        for side in SIDES:
            table.add_row(f"{side}²", *(f"{measure(side, width, device):.1f}" for width in WIDTHS))
        if measure is solved:
            table.add_row(f"{SIDES[0]}², dual", *(f"{by_dual(SIDES[0], width, device):.1f}" for width in WIDTHS))
        out.print(table)


if __name__ == "__main__":
    main()
