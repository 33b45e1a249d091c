"""The picture of a run's losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_SMOOTHED = 20


def draw_losses(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the curves of the total, L1 and edge loss over steps, with a running mean over 20 steps on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = np.array([row["step"] for row in rows])
    for name, label in (("loss", "total"), ("l1", "L1"), ("edge", "edge")):
        values = np.array([row[name] for row in rows])
        (line,) = axes.plot(steps, values, alpha=0.25, linewidth=0.8)
        window = min(_SMOOTHED, len(values))
        mean = np.convolve(values, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], mean, color=line.get_color(), linewidth=1.8, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss on the query view")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
