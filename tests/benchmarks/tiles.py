"""Features in tiles against those of the whole image: how far they differ, and whether seams show.

python -m tests.benchmarks.tiles [--weights FILE] [--image FILE]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lila_cues.images import read_image
from lila_train import Lila, load
from tests.benchmarks import figures
from tests.benchmarks.figures import Figure, Quantity

DISTANCE = Quantity("features in tiles: 1 − mean cosine to those of the whole image", "")
SEAM = Quantity("features in tiles: change across the worst seam, of the whole image's", "×")
FIGURES = (DISTANCE, SEAM)
CASES: Sequence[tuple[int, int | None]] = ((448, None), (256, None), (256, 128), (256, 0), (128, None))


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of two d×H×W maps, pixel by pixel."""
    return (first * second).sum(axis=0) / np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))


def worst_seam(found: np.ndarray, whole: np.ndarray) -> float:
    """The largest of the mean changes from one column to the next, as multiples of those in the whole image."""
    steps = [np.abs(np.diff(features, axis=2)).mean(axis=(0, 1)) for features in (found, whole)]
    return float((steps[0] / steps[1]).max())


def _model(weights: Path | None) -> Lila:
    from tests.lila_train.inference.models import small_model

    return load(weights) if weights else small_model()


def main() -> None:
    """Print the table."""
    from rich.table import Table

    from lila_cues.console import out
    from tests.lila_train.model.test_lila import picture

    parser = figures.parser(__doc__)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = _model(chosen.weights)
    image = read_image(chosen.image) if chosen.image else picture(480, 854)
    whole = model.features(image)
    heads = ("tile, overlap", "mean cosine", "1st percentile", "worst seam", "seconds")
    table = Table(*heads, title=f"tiles of a {image.shape[0]}×{image.shape[1]} image against the whole")
    measured: list[Figure] = []
    for tile, overlap in CASES:
        began = time.perf_counter()
        found = model.features(image, tile=tile, overlap=overlap)
        seconds = time.perf_counter() - began
        close, seam = cosine(found, whole), worst_seam(found, whole)
        case = f"{tile}, {tile // 4 if overlap is None else overlap}"
        cells = (f"{close.mean():.4f}", f"{np.percentile(close, 1):.3f}", f"{seam:.2f}")
        table.add_row(case, *cells, f"{seconds:.1f}")
        if overlap is None:
            settings = f"tiles of {tile} px, {image.shape[0]}×{image.shape[1]}"
            measured += [DISTANCE.figure(float(1 - close.mean()), settings), SEAM.figure(seam, settings)]
    out.print(table)
    figures.hand_back(chosen.figures, FIGURES, measured)


if __name__ == "__main__":
    main()
