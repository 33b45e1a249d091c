"""The picture of a run's losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_SMOOTHED = 20


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values up to each one; of the first values, of those there are."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def draw_losses(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the curves of the total, L1 and edge loss over steps, with a running mean over 20 steps on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = np.array([row["step"] for row in rows])
    window = min(_SMOOTHED, len(rows))
    for name, label in (("loss", "total"), ("l1", "L1"), ("edge", "edge")):
        values = np.array([row[name] for row in rows])
        (line,) = axes.plot(steps, values, alpha=0.25, linewidth=0.8)
        mean = running_mean(values, window)[window - 1 :]
        axes.plot(steps[window - 1 :], mean, color=line.get_color(), linewidth=1.8, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss on the query view")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
