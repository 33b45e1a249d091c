"""The report on an ablation study: tables as Markdown, CSV and HTML with the published scores, and charts as SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lila_cues.viz.charts import running_mean
from lila_cues.viz.html import Markup, document, escaped, heading, joined, paragraph, table, write_page
from lila_train.report.tables import MISSING, markdown_table
from lila_train.training.ablation_study import Finding, RowScores
from lila_train.training.ablations import FULL, Ablation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Losses = Mapping[str, Sequence[Sequence[float]]]
"""The losses of every step, by the label of a row and by seed."""

PUBLISHED_FIELDS = {"davis-knn@lila": "davis_knn", "davis-lp@lila": "davis_lp"}
"""By protocol: the field of `lila_train.training.ablations.PublishedResults` with the published score."""

HEAD = ["row", "J&F", "sd", "seeds", "to full", "to encoder", "published J&F", "published, to full"]
TEXT_COLUMNS = ("row", "what it asks", "settings")
NOTE = (
    "“to full” and “to encoder” are differences in points; sd is over seeds. Published scores are the paper's, for "
    "ViT-S/14 on DAVIS-2017 val: only their differences compare with ours."
)
SMOOTHING_STEPS = 50
FULL_COLOR, ENCODER_COLOR = "#c2410c", "#64748b"
ROW_COLORS = ("#334155", "#0f766e", "#7c3aed", "#b45309", "#0369a1", "#be185d", "#4d7c0f", "#6b7280", "#9333ea")


def write_ablations(folder: Path, findings: Sequence[Finding], caption: str, losses: Losses) -> None:
    """Write ablations.md, .csv and .html, the chart of each protocol, ablations-PROTOCOL.svg, and one over steps.

    Args:
        caption: the data, the counts and the settings.
    """
    charts = {finding.protocol: scores_chart(finding) for finding in findings}
    over_steps = steps_chart(findings, losses)
    for name, chart in (*charts.items(), ("steps", over_steps)):
        write_page(folder / f"ablations-{name}.svg", chart)

    explained = _explain([scores.row for scores in findings[0].scores])
    tables = [*map(markdown, findings), markdown_table(*explained, TEXT_COLUMNS)]
    write_page(folder / "ablations.md", "\n".join([f"{caption}\n", *tables]))

    text = io.StringIO()
    csv.writer(text).writerow(["protocol", *HEAD])
    for finding in findings:
        csv.writer(text).writerows([finding.protocol, *cells] for cells in table_rows(finding))
    write_page(folder / "ablations.csv", text.getvalue())

    parts = [heading("Ablations", level=1), paragraph(caption)]
    for finding in findings:
        parts += [heading(finding.protocol), Markup(charts[finding.protocol]), table(HEAD, table_rows(finding))]
    parts += [heading("Over steps"), Markup(over_steps), heading("The rows")]
    head, rows = explained
    wrapped = [  # so that no column is cut off
        [
            Markup(f'<td class="words">{escaped(cell)}</td>') if name in TEXT_COLUMNS[1:] else cell
            for name, cell in zip(head, cells, strict=True)
        ]
        for cells in rows
    ]
    page = joined([*parts, table(head, wrapped), paragraph(NOTE)])
    write_page(folder / "ablations.html", document("LILA: ablations", page))


def markdown(finding: Finding) -> str:
    """Return the table of one protocol as Markdown under the protocol's name."""
    return f"**{finding.protocol}**\n\n" + markdown_table(HEAD, table_rows(finding), TEXT_COLUMNS)


def table_rows(finding: Finding) -> list[list[str]]:
    """Return the cells under HEAD: the encoder alone, then a row per ablation; missing scores are "missing"."""
    full = finding.full.mean
    to_full = None if full is None else finding.encoder - full
    rows = [["frozen encoder", f"{finding.encoder:.1f}", "–", "–", _signed(to_full), "–", "–", "–"]]
    for scores in finding.scores:
        is_full = scores.row.name == FULL.name
        published, published_full = (
            float(getattr(row.published, PUBLISHED_FIELDS[finding.protocol])) for row in (scores.row, FULL)
        )
        rows.append(
            [
                scores.row.label,
                MISSING if scores.mean is None else f"{scores.mean:.1f}",
                "–" if scores.std is None else f"{scores.std:.1f}",
                str(len(scores.by_seed)),
                "–" if is_full else _signed(scores.gain_over(finding.full)),
                _signed(None if scores.mean is None else scores.mean - finding.encoder),
                f"{published:.1f}",
                "–" if is_full else _signed(published - published_full),
            ]
        )
    return rows


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1f}"


def _explain(rows: Sequence[Ablation]) -> tuple[list[str], list[list[str]]]:
    """Return the table of what each row changes and why, with other published metrics."""
    head = [*TEXT_COLUMNS, "published NYUv2 normals RMSE, °", "published COCO-Stuff-27 mIoU"]
    cells = []
    for row in rows:
        values = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in row.changes.items()}
        settings = ", ".join(f"{name}={str(value).lower()}" for name, value in values.items())  # as --set takes them
        published = (row.published.nyu_rmse, row.published.coco_miou)
        texts = ["–" if value is None else f"{value:g}" for value in published]
        cells.append([row.label, row.why, settings or "–", *texts])
    return head, cells


def scores_chart(finding: Finding) -> str:
    """Return an SVG: each row's seeds as dots, mean and standard deviation as an error bar, the encoder as a line."""
    scores = finding.scores
    figure = _new_figure(7.5, 0.42 * len(scores) + 1.2)
    axes = figure.subplots()
    for y, one in enumerate(reversed(scores)):
        values = list(one.by_seed.values())
        color = FULL_COLOR if one.row.name == FULL.name else ROW_COLORS[0]
        axes.scatter(values, [y] * len(values), s=14, alpha=0.5, color=color, zorder=3)
        if one.mean is not None:
            axes.errorbar(one.mean, y, xerr=one.std or 0, fmt="D", ms=6, capsize=4, color=color, zorder=4)
    axes.axvline(finding.encoder, color=ENCODER_COLOR, linestyle="--", linewidth=1)
    axes.annotate("encoder", (finding.encoder, len(scores) - 0.4), ha="center", fontsize=8, color=ENCODER_COLOR)
    axes.set_yticks(range(len(scores)), [one.row.label for one in reversed(scores)])
    axes.set_ylim(-0.6, len(scores) - 0.1)
    axes.set_xlabel(f"J&F, {finding.protocol}, %")
    axes.grid(axis="x", alpha=0.25)
    return _svg(figure)


def steps_chart(findings: Sequence[Finding], losses: Losses) -> str:
    """Return an SVG with the smoothed losses, and a panel for each protocol that was scored during training."""
    scored = [finding for finding in findings if any(one.by_step for one in finding.scores)]
    figure = _new_figure(4.6 * (1 + len(scored)), 3.4)
    panels = figure.subplots(1, 1 + len(scored), squeeze=False)[0]
    others = [one.row.label for one in findings[0].scores if one.row.label != FULL.label]
    colors = {label: ROW_COLORS[n % len(ROW_COLORS)] for n, label in enumerate(others)} | {FULL.label: FULL_COLOR}
    for label, seeds in losses.items():
        smoothed = mean_loss(seeds)
        panels[0].plot(np.arange(len(smoothed)) + 1, smoothed, color=colors[label], linewidth=1.4, label=label)
    panels[0].set_ylabel("loss")
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False, fontsize=8)
    for axes, finding in zip(panels[1:], scored, strict=True):
        for one in finding.scores:
            _plot_scores(axes, one, colors[one.row.label])
        axes.axhline(finding.encoder, color=ENCODER_COLOR, linestyle="--", linewidth=1, label="frozen encoder")
        axes.set_ylabel(f"J&F, {finding.protocol}, %")
        axes.legend(frameon=False, fontsize=8)
    for axes in panels:
        axes.set_xlabel("step")
        axes.grid(alpha=0.2)
    return _svg(figure)


def mean_loss(seeds: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the running mean over SMOOTHING_STEPS of the seeds' mean, over the steps that all of them have."""
    length = min(map(len, seeds), default=0)
    mean = np.mean([seed[:length] for seed in seeds], axis=0) if length else np.zeros(0)
    return running_mean(mean, SMOOTHING_STEPS)


def _plot_scores(axes: Axes, scores: RowScores, color: str) -> None:
    """Plot the seeds as thin lines and their mean as a thick one; nothing for a row without scores during training."""
    seeds = list(scores.by_step.values())
    for steps in seeds:
        axes.plot(list(steps), list(steps.values()), color=color, linewidth=0.7, alpha=0.4)
    shared = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if shared:
        means = [float(np.mean([steps[step] for steps in seeds])) for step in shared]
        axes.plot(shared, means, color=color, marker="o", ms=4, linewidth=1.6, label=scores.row.label)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text)
    return text.getvalue()[text.getvalue().index("<svg") :]
