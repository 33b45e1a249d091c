"""Curves over steps as inline SVG, in the colours of the page.

The picture of a run's losses.
"""

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
SMOOTHED = 20
MOST_POINTS = 600

Values = Float[np.ndarray, " n"]


def curves(steps: Values, named: Mapping[str, Values], unit: str) -> Markup:
    """Up to three curves from 0 up, each with its running mean over 20 steps and its name at the end."""
    top = _ceiling(max(float(np.percentile(curve, 99.5)) for curve in named.values()))
    span = (float(steps[0]), max(float(steps[-1]), float(steps[0]) + 1))
    parts = [_grid(span, top, unit)]
    ends = _apart({name: _y(latest_mean(curve)[-1], top) for name, curve in named.items()})
    for n, (name, curve) in enumerate(named.items()):
        parts.append(_line(steps, curve, span, top, f"raw c{n}"))
        parts.append(_line(steps, latest_mean(curve), span, top, f"mean c{n}"))
        parts.append(f'<text class="f{n}" x="{WIDTH - RIGHT + 8}" y="{ends[name] + 4:.1f}">{html.escape(name)}</text>')
    label = html.escape(f"{', '.join(named)} over {unit}s")
    inside = "\n".join(parts)
    return Markup(f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{inside}</svg>')


def latest_mean(curve: Values) -> Values:
    """The mean of the latest 20 values at each point, of fewer where there are not so many yet."""
    sums = np.concatenate([[0.0], np.cumsum(curve)])
    ends = np.arange(1, len(curve) + 1)
    starts = np.maximum(ends - SMOOTHED, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def ticks(top: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to `top`, about `count` of them."""
    rough = top / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    return [step * n for n in range(int(top / step + 1e-6) + 1)]


def _ceiling(largest: float) -> float:
    found = ticks(max(largest, 1e-9))
    return found[-1] if found[-1] >= largest else found[-1] + found[1]


def _x(step: float, span: tuple[float, float]) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (step - span[0]) / (span[1] - span[0])


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(value, top) / top)


def _apart(heights: Mapping[str, float], least: float = 15) -> dict[str, float]:
    """The same heights, moved down where two labels would overlap."""
    placed: dict[str, float] = {}
    lowest = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        lowest = placed[name] = max(height, lowest + least)
    return placed


def _line(steps: Values, values: Values, span: tuple[float, float], top: float, style: str) -> str:
    keep = slice(None, None, max(1, len(steps) // MOST_POINTS))
    points = " ".join(f"{_x(a, span):.1f},{_y(b, top):.1f}" for a, b in zip(steps[keep], values[keep], strict=True))
    return f'<polyline class="{style}" points="{points}"/>'


def _grid(span: tuple[float, float], top: float, unit: str) -> str:
    parts = []
    for value in ticks(top):
        y = _y(value, top)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for step in ticks(span[1]):
        if step >= span[0]:
            x = _x(step, span)
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{step:,.0f}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{HEIGHT - BOTTOM + 20}">{html.escape(unit)}</text>')
    return "\n".join(parts)


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
