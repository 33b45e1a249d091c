"""Losses over steps: as inline SVG in the colors of the page, and as a PNG file of a run."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lila_cues.viz.html import Markup

WIDTH, HEIGHT = 960, 320
LEFT, RIGHT, TOP, BOTTOM = 48, 90, 14, 38
WINDOW = 20  # steps of the running mean

Values = Float[np.ndarray, " n"]


def curves(steps: Values, named: Mapping[str, Values], unit: str) -> Markup:
    """Draw up to three curves from 0 up as SVG, each with its running mean over 20 steps and its name at the end."""
    largest = max(float(np.percentile(curve, 99.5)) for curve in named.values())
    marks = ticks(max(largest, 1e-9))
    y_max = marks[-1] if marks[-1] >= largest else marks[-1] + marks[1]
    first, last = float(steps[0]), max(float(steps[-1]), float(steps[0]) + 1)
    right, below = WIDTH - RIGHT + 8, HEIGHT - BOTTOM + 20

    def x_of(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / (last - first)

    def y_of(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(value, y_max) / y_max)

    parts = []
    for value in ticks(y_max):
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for step in ticks(last):
        if step >= first:
            parts.append(f'<text x="{x_of(step):.1f}" y="{below}" text-anchor="middle">{step:,.0f}</text>')
    parts.append(f'<text x="{right}" y="{below}">{html.escape(unit)}</text>')

    means = {name: running_mean(curve, WINDOW) for name, curve in named.items()}
    ends = {name: y_of(mean[-1]) for name, mean in means.items()}
    lowest = -math.inf
    for name in sorted(ends, key=ends.__getitem__):  # labels less than 15 px apart move down
        lowest = ends[name] = max(ends[name], lowest + 15)
    every = slice(None, None, max(1, len(steps) // 600))  # of more than 600 steps, 600 to 1,199 are drawn
    for n, (name, curve) in enumerate(named.items()):
        for style, values in (("raw", curve), ("mean", means[name])):
            shown = zip(steps[every], values[every], strict=True)
            points = " ".join(f"{x_of(step):.1f},{y_of(value):.1f}" for step, value in shown)
            parts.append(f'<polyline class="{style} c{n}" points="{points}"/>')
        parts.append(f'<text class="f{n}" x="{right}" y="{ends[name] + 4:.1f}">{html.escape(name)}</text>')
    label = html.escape(f"{', '.join(named)} over {unit}s")
    content = "\n".join(parts)
    return Markup(f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{content}</svg>')


def draw_losses(rows: list[dict[str, Any]], path: Path, titles: Mapping[str, str]) -> None:
    """Write a PNG of losses over steps, `titles` by their names in `rows`, each with its running mean over 20 steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = np.array([row["step"] for row in rows])
    window = min(WINDOW, len(rows))
    for name, label in titles.items():
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


def running_mean(values: Values, window: int) -> Values:
    """Return the mean of the last `window` values at each position; at the first ones, of those there are."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def ticks(top: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers from 0 to `top`."""
    rough = top / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    return [step * n for n in range(int(top / step + 1e-6) + 1)]
