"""Charts of an ablation study as SVG: scores by row, and losses and scores over steps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lila_train.training.ablation_study import Finding, RowScores
from lila_train.training.ablations import FULL
from lila_train.training.curves import running_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Losses = Mapping[str, Sequence[Sequence[float]]]
"""Of every step, by the label of a row and by seed."""
SMOOTHED = 50  # steps
_FULL, _GREY = "#c2410c", "#64748b"
_OTHERS = ("#334155", "#0f766e", "#7c3aed", "#b45309", "#0369a1", "#be185d", "#4d7c0f", "#6b7280", "#9333ea")


def by_row(finding: Finding) -> str:
    """Each row's seeds as dots, its mean and deviation as a bar; the encoder as a line."""
    scores = finding.scores
    figure = _figure(7.5, 0.42 * len(scores) + 1.2)
    axes = figure.subplots()
    for y, one in enumerate(reversed(scores)):
        values = list(one.by_seed.values())
        colour = _FULL if one.row.name == FULL.name else _OTHERS[0]
        axes.scatter(values, [y] * len(values), s=14, alpha=0.5, color=colour, zorder=3)
        if one.mean is not None:
            axes.errorbar(one.mean, y, xerr=one.deviation or 0, fmt="D", ms=6, capsize=4, color=colour, zorder=4)
    axes.axvline(finding.encoder, color=_GREY, linestyle="--", linewidth=1)
    axes.annotate("encoder", (finding.encoder, len(scores) - 0.4), ha="center", fontsize=8, color=_GREY)
    axes.set_yticks(range(len(scores)), [one.row.label for one in reversed(scores)])
    axes.set_ylim(-0.6, len(scores) - 0.1)
    axes.set_xlabel(f"J&F, {finding.protocol}, %")
    axes.grid(axis="x", alpha=0.25)
    return _svg(figure)


def over_steps(findings: Sequence[Finding], losses: Losses) -> str:
    """A panel of losses, the mean over seeds of a running mean over 50 steps, and one for each protocol that was scored
    on the way: seeds as thin lines, their mean as a thick one."""
    scored = [finding for finding in findings if any(one.by_step for one in finding.scores)]
    figure = _figure(4.6 * (1 + len(scored)), 3.4)
    panels = figure.subplots(1, 1 + len(scored), squeeze=False)[0]
    colours = _colours([one.row.label for one in findings[0].scores])
    for label, seeds in losses.items():
        smoothed = _running_mean(seeds)
        panels[0].plot(np.arange(len(smoothed)) + 1, smoothed, color=colours[label], linewidth=1.4, label=label)
    panels[0].set_ylabel("loss")
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False, fontsize=8)
    for axes, finding in zip(panels[1:], scored, strict=True):
        for one in finding.scores:
            _plot_scores(axes, one, colours[one.row.label])
        axes.axhline(finding.encoder, color=_GREY, linestyle="--", linewidth=1, label="frozen encoder")
        axes.set_ylabel(f"J&F, {finding.protocol}, %")
        axes.legend(frameon=False, fontsize=8)
    for axes in panels:
        axes.set_xlabel("step")
        axes.grid(alpha=0.2)
    return _svg(figure)


def _plot_scores(axes: Axes, scores: RowScores, colour: str) -> None:
    """Nothing for a row that was scored at its end alone."""
    for steps in scores.by_step.values():
        axes.plot(list(steps), list(steps.values()), color=colour, linewidth=0.7, alpha=0.4)
    shared = sorted(set.intersection(*(set(steps) for steps in scores.by_step.values())) if scores.by_step else ())
    if shared:
        means = [float(np.mean([steps[step] for steps in scores.by_step.values()])) for step in shared]
        axes.plot(shared, means, color=colour, marker="o", ms=4, linewidth=1.6, label=scores.row.label)


def _running_mean(seeds: Sequence[Sequence[float]]) -> np.ndarray:
    """Over the steps that all seeds have; the first steps are averaged over those there are."""
    length = min(map(len, seeds), default=0)
    mean = np.mean([seed[:length] for seed in seeds], axis=0) if length else np.zeros(0)
    return running_mean(mean, SMOOTHED)


def _colours(labels: Sequence[str]) -> dict[str, str]:
    others = [label for label in labels if label != FULL.label]
    return {FULL.label: _FULL} | {label: _OTHERS[n % len(_OTHERS)] for n, label in enumerate(others)}


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    drawn = io.StringIO()
    FigureCanvasSVG(figure).print_svg(drawn)
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]
