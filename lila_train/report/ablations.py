"""Charts of an ablation study as SVG: scores by row, and losses and scores over steps.

The table of an ablation study: Markdown, CSV, HTML and a chart, the published figures beside ours.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lila_cues.viz.charts import running_mean
from lila_cues.viz.html import Markup, document, escaped, heading, joined, paragraph, table, write_page
from lila_train.report.tables import MISSING
from lila_train.training.ablation_study import Finding, RowScores
from lila_train.training.ablations import FULL, Ablation

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
    figure = _new_figure(7.5, 0.42 * len(scores) + 1.2)
    axes = figure.subplots()
    for y, one in enumerate(reversed(scores)):
        values = list(one.by_seed.values())
        color = _FULL if one.row.name == FULL.name else _OTHERS[0]
        axes.scatter(values, [y] * len(values), s=14, alpha=0.5, color=color, zorder=3)
        if one.mean is not None:
            axes.errorbar(one.mean, y, xerr=one.std or 0, fmt="D", ms=6, capsize=4, color=color, zorder=4)
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
    figure = _new_figure(4.6 * (1 + len(scored)), 3.4)
    panels = figure.subplots(1, 1 + len(scored), squeeze=False)[0]
    colors = _colours([one.row.label for one in findings[0].scores])
    for label, seeds in losses.items():
        smoothed = _running_mean(seeds)
        panels[0].plot(np.arange(len(smoothed)) + 1, smoothed, color=colors[label], linewidth=1.4, label=label)
    panels[0].set_ylabel("loss")
    panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False, fontsize=8)
    for axes, finding in zip(panels[1:], scored, strict=True):
        for one in finding.scores:
            _plot_scores(axes, one, colors[one.row.label])
        axes.axhline(finding.encoder, color=_GREY, linestyle="--", linewidth=1, label="frozen encoder")
        axes.set_ylabel(f"J&F, {finding.protocol}, %")
        axes.legend(frameon=False, fontsize=8)
    for axes in panels:
        axes.set_xlabel("step")
        axes.grid(alpha=0.2)
    return _svg(figure)


def _plot_scores(axes: Axes, scores: RowScores, color: str) -> None:
    """Nothing for a row that was scored at its end alone."""
    for steps in scores.by_step.values():
        axes.plot(list(steps), list(steps.values()), color=color, linewidth=0.7, alpha=0.4)
    shared = sorted(set.intersection(*(set(steps) for steps in scores.by_step.values())) if scores.by_step else ())
    if shared:
        means = [float(np.mean([steps[step] for steps in scores.by_step.values()])) for step in shared]
        axes.plot(shared, means, color=color, marker="o", ms=4, linewidth=1.6, label=scores.row.label)


def _running_mean(seeds: Sequence[Sequence[float]]) -> np.ndarray:
    """Over the steps that all seeds have; the first steps are averaged over those there are."""
    length = min(map(len, seeds), default=0)
    mean = np.mean([seed[:length] for seed in seeds], axis=0) if length else np.zeros(0)
    return running_mean(mean, SMOOTHED)


def _colours(labels: Sequence[str]) -> dict[str, str]:
    others = [label for label in labels if label != FULL.label]
    return {FULL.label: _FULL} | {label: _OTHERS[n % len(_OTHERS)] for n, label in enumerate(others)}


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    drawn = io.StringIO()
    FigureCanvasSVG(figure).print_svg(drawn)
    return drawn.getvalue()[drawn.getvalue().index("<svg") :]


PUBLISHED_FIELDS = {"davis-knn@lila": "davis_knn", "davis-lp@lila": "davis_lp"}
"""By protocol: the field of `lila_train.training.ablations.PublishedResults` that its figures stand beside."""

STEPS = "steps"


@dataclass(frozen=True)
class AblationTable:
    """What a study found by one protocol."""

    finding: Finding

    def head(self) -> list[str]:
        """The names of the columns."""
        return ["row", "J&F", "sd", "seeds", "to full", "to encoder", "published J&F", "published, to full"]

    def rows(self) -> list[list[str]]:
        """The encoder alone, then a row per ablation; a figure that is missing says so."""
        alone = self.finding.encoder
        full = self.finding.full.mean
        to_full = None if full is None else alone - full
        encoder = ["frozen encoder", f"{alone:.1f}", "–", "–", _signed(to_full), "–", "–", "–"]
        return [encoder, *(self._row(scores) for scores in self.finding.scores)]

    def _row(self, scores: RowScores) -> list[str]:
        is_full = scores.row.name == FULL.name
        published = self._published(scores.row)
        return [
            scores.row.label,
            MISSING if scores.mean is None else f"{scores.mean:.1f}",
            "–" if scores.std is None else f"{scores.std:.1f}",
            str(len(scores.by_seed)),
            "–" if is_full else _signed(scores.gain_over(self.finding.full)),
            _signed(None if scores.mean is None else scores.mean - self.finding.encoder),
            f"{published:.1f}",
            "–" if is_full else _signed(published - self._published(FULL)),
        ]

    def _published(self, row: Ablation) -> float:
        return float(getattr(row.published, PUBLISHED_FIELDS[self.finding.protocol]))

    def markdown(self) -> str:
        """A GitHub table under the protocol's name."""
        return f"**{self.finding.protocol}**\n\n" + _markdown(self.head(), self.rows())


def explained(rows: Sequence[Ablation]) -> tuple[list[str], list[list[str]]]:
    """What each row changes and why, and what the paper measures of it elsewhere."""
    head = ["row", "what it asks", "settings", "published NYUv2 normals RMSE, °", "published COCO-Stuff-27 mIoU"]
    return head, [
        [row.label, row.why, _settings(row), _figure(row.published.nyu_rmse), _figure(row.published.coco_miou)]
        for row in rows
    ]


def _settings(row: Ablation) -> str:
    """As `--set` takes them."""
    words = ((name, ",".join(value) if isinstance(value, tuple) else value) for name, value in row.changes.items())
    return ", ".join(f"{name}={str(value).lower()}" for name, value in words) or "–"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def write_ablations(folder: Path, tables: Sequence[AblationTable], caption: str, losses: Losses) -> None:
    """ablations.md, .csv and .html of all protocols, a chart of each, ablations-PROTOCOL.svg, and one over steps.

    `caption` names the data, the counts and the settings; `losses` are those of every step, by row and seed.
    """
    charts = {found.finding.protocol: by_row(found.finding) for found in tables}
    charts[STEPS] = over_steps([found.finding for found in tables], losses)
    for name, chart in charts.items():
        write_page(folder / f"ablations-{name}.svg", chart)
    rows = _markdown(*explained([scores.row for scores in tables[0].finding.scores]))
    write_page(folder / "ablations.md", "\n".join([f"{caption}\n", *(found.markdown() for found in tables), rows]))
    write_page(folder / "ablations.csv", _csv(tables))
    write_page(folder / "ablations.html", _html(tables, charts, caption))


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---" if name in _WORDS else "---:" for name in head], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _csv(tables: Sequence[AblationTable]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["protocol", *tables[0].head()])
    for found in tables:
        writer.writerows([found.finding.protocol, *line] for line in found.rows())
    return text.getvalue()


def _html(tables: Sequence[AblationTable], charts: Mapping[str, str], caption: str) -> str:
    """One page with the charts, SVGs by protocol and over steps, inside."""
    parts = [heading("Ablations", level=1), paragraph(caption)]
    for found in tables:
        name = found.finding.protocol
        parts += [heading(name), Markup(charts[name]), table(found.head(), found.rows())]
    parts += [heading("Over steps"), Markup(charts[STEPS])]
    head, lines = explained([scores.row for scores in tables[0].finding.scores])
    parts += [heading("The rows"), _in_words(head, lines)]
    return document("LILA: ablations", joined([*parts, paragraph(_NOTE)]))


def _in_words(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Markup:
    """The table of the rows; what a row asks and its settings may break into lines, so that no column is cut off."""
    return table(
        head,
        [
            [
                cell if head[n] not in _WORDS[1:] else Markup(f'<td class="words">{escaped(cell)}</td>')
                for n, cell in enumerate(line)
            ]
            for line in lines
        ],
    )


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1f}"


_WORDS = ("row", "what it asks", "settings")
"""The columns that hold no figures."""

_NOTE = (
    "“to full” and “to encoder” are differences in points; sd is over seeds. Published figures are the paper's, for "
    "ViT-S/14 on DAVIS-2017 val: only their differences compare with ours."
)
