"""Charts by matplotlib: curves over steps, scores, sheets of pictures; the same data give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.signal import savgol_filter

from lila_cues.viz.html import Row

WIDTH_IN = 10.5
WINDOW = 21  # steps of the mean of a loss
MAX_POINTS = 600  # of a longer line, every n-th point is drawn, 600 to 1,199 of them
COLORS = ("#c2410c", "#0369a1", "#65a30d", "#7c3aed", "#eab308", "#06b6d4", "#ec4899", "#1e293b", "#7f1d1d", "#94a3b8")
REFERENCE_COLOR = "#64748b"
STYLE = {
    "axes.edgecolor": "#8d949d",
    "axes.grid": True,
    "axes.labelcolor": "#5d646d",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.xmargin": 0.01,
    "font.size": 9,
    "grid.color": "#e1e4e8",
    "legend.frameon": False,
    "svg.hashsalt": "lila",
    "text.parse_math": False,  # labels are names, in which a $ is a $
    "xtick.color": "#5d646d",
    "ytick.color": "#5d646d",
}
in_style = matplotlib.style.context(["default", STYLE])

Values = Float[np.ndarray, " n"]
Line = tuple[np.ndarray, np.ndarray]  # x and y


class Curve(NamedTuple):
    """A named line, drawn thick, and the single values or seeds that it summarizes, drawn thin."""

    label: str
    mean: Line
    samples: Sequence[Line] = ()


class Panel(NamedTuple):
    """Curves over steps. `reference` is a named level, drawn dashed; without one, the y axis is logarithmic."""

    y_label: str
    curves: Sequence[Curve]
    reference: tuple[str, float] | None = None


def loss_curves(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str], kind: str = "svg") -> bytes:
    """Draw a run's losses, `titles` by their names in the rows of its log, each with its mean around each step."""
    steps = np.array([row["step"] for row in rows], float)
    curves = []
    for name, title in titles.items():
        values = np.array([row[name] for row in rows], float)
        curves.append(Curve(title, (steps, centered_mean(values, WINDOW)), [(steps, values)]))
    return step_curves([Panel("loss on the query view", curves)], kind)


@in_style
def step_curves(panels: Sequence[Panel], kind: str = "svg") -> bytes:
    """Draw panels side by side and return the file, "svg" or "png"; a label has one color in all of them."""
    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    colors = {label: COLORS[n % len(COLORS)] for n, label in enumerate(labels)}
    styles = {label: ("-", (0, (5, 1)))[n // 5 % 2] for n, label in enumerate(labels)}
    figure = Figure(figsize=(WIDTH_IN, 3.6), dpi=144, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, mean, samples in panel.curves:
            for x, y in map(_thinned, samples):
                axes.plot(x, y, color=colors[label], linewidth=0.7, alpha=0.35)
            x, y = _thinned(mean)
            style = {"marker": "o" if len(x) < 30 else "", "markersize": 3.5, "linestyle": styles[label]}
            axes.plot(x, y, color=colors[label], label=label, **style)
        if panel.reference is None:
            if any((mean[1] > 0).any() for _, mean, _ in panel.curves):
                axes.set_yscale("log", nonpositive="mask")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
                axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            name, level = panel.reference
            axes.axhline(level, color=REFERENCE_COLOR, linestyle=":", linewidth=1.5, label=name)
            spans = [(min(y), max(y)) for _, (_, y), _ in panel.curves] + [(level, level)]
            if found := _far_below(spans):
                label, (_, y), _ = panel.curves[found[0]]
                axes.set_ylim(*found[1])
                note = f"{label}: below the axis, {y[-1]:.1f} at the end"
                axes.text(0.99, 0.02, note, transform=axes.transAxes, ha="right", color=colors[label])
        axes.set(xlabel="step", ylabel=panel.y_label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(labels) <= 4:
            axes.legend()
    if len(labels) > 4:  # one legend for all panels, where it covers no curve
        entries = {
            label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=6)
    return _encode(figure, kind)


def _far_below(spans: Sequence[tuple[float, float]]) -> tuple[int, tuple[float, float]] | None:
    """Find which of three or more (low, high) lies so far below the others that it would flatten them.

    Return its index and the limits of an axis for the others, or None. The last one, the reference's, is always shown.
    """
    lowest = min(range(len(spans) - 1), key=lambda n: spans[n][1], default=0)
    others = [span for n, span in enumerate(spans) if n != lowest]
    if len(others) < 2:
        return None
    low, high = min(low for low, _ in others), max(high for _, high in others)
    margin = 0.12 * max(high - low, 1e-9)
    return (lowest, (low - margin, high + margin)) if spans[lowest][1] < 2 * low - high else None


@in_style
def score_dots(rows: Mapping[str, Sequence[float]], reference: tuple[str, float], x_label: str) -> bytes:
    """Draw each row's scores as dots with mean and standard deviation (unbiased), the first row in the first color.

    `reference` is a named score, drawn as a dashed line. Returns an SVG file.
    """
    figure = Figure(figsize=(WIDTH_IN, 0.4 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots()
    for n, values in enumerate(rows.values()):
        color = COLORS[min(n, 1)]
        axes.scatter(values, [n] * len(values), s=14, alpha=0.5, color=color, zorder=3)
        if values:
            spread = np.std(values, ddof=1) if len(values) > 1 else 0
            axes.errorbar(np.mean(values), n, xerr=spread, fmt="D", markersize=6, capsize=4, color=color, zorder=4)
    name, level = reference
    axes.axvline(level, color=REFERENCE_COLOR, linestyle="--", linewidth=1)
    axes.annotate(f" {name}", (level, -0.5), va="bottom", color=REFERENCE_COLOR)
    axes.margins(x=0.05)
    spans = [(min(values), max(values)) for values in rows.values() if values] + [(level, level)]
    if found := _far_below(spans):
        axes.set_xlim(*found[1])
        n = [n for n, values in enumerate(rows.values()) if values][found[0]]
        text = f" ← {np.mean(list(rows.values())[n]):.1f}"
        axes.annotate(text, (0, n), xycoords=("axes fraction", "data"), va="center", color=COLORS[min(n, 1)])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.4, -1)
    axes.set_xlabel(x_label)
    axes.grid(visible=False, axis="y")
    return _encode(figure, "svg")


@in_style
def picture_sheet(rows: Sequence[Row]) -> bytes:
    """Draw rows of pictures one below the other, with titles and captions. Return a PNG file."""
    columns = max(len(row.figures) for row in rows)
    sheet = Figure(figsize=(2.4 * columns, 3.2 * len(rows)), dpi=100)
    for row, part in zip(rows, sheet.subfigures(len(rows), squeeze=False)[:, 0], strict=True):
        part.suptitle(row.title, x=0.004, y=0.97, ha="left", weight="bold")
        part.subplots_adjust(left=0.004, right=0.996, bottom=0.02, top=0.78, wspace=0.04)
        for axes, figure in zip(part.subplots(1, columns, squeeze=False)[0], row.figures, strict=False):
            axes.set_axis_off()
            axes.set_anchor("N")  # captions of pictures of other shapes are level
            if figure:
                axes.imshow(figure.picture)
                axes.set_title(f"{figure.name}\n{figure.detail}", fontsize=8, loc="left")
    return _encode(sheet, "png")


def centered_mean(values: Values, window: int) -> Values:
    """Return the mean of the `window` values (odd) around each position; near the ends a line fitted to as many."""
    window = min(window, len(values) - 1 + len(values) % 2)
    return savgol_filter(values, window, 1) if window > 2 else values


def _thinned(line: Line) -> Line:
    every = slice(None, None, max(1, len(line[0]) // MAX_POINTS))
    return line[0][every], line[1][every]


def _encode(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
