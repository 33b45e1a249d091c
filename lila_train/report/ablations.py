"""The table of an ablation study: Markdown, CSV, HTML and a chart, the published figures beside ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lila_train.ablation_study import Scores
from lila_train.ablations import FULL
from lila_train.report.page import Markup, document, heading, joined, paragraph, table

MISSING = "missing"


@dataclass(frozen=True)
class Table:
    """What a study found. `caption` names the protocol, the data, the counts and the settings."""

    scores: Sequence[Scores]
    encoder: float
    caption: str

    @property
    def full(self) -> Scores:
        """The row that the others are compared with."""
        return next(scores for scores in self.scores if scores.row.name == FULL.name)

    def head(self) -> list[str]:
        """The names of the columns."""
        return ["row", "J&F", "sd", "seeds", "to full", "to encoder", "published k-NN J&F", "published, to full"]

    def rows(self) -> list[list[str]]:
        """The encoder alone, then a row per ablation; a figure that is missing says so."""
        encoder = ["frozen encoder", f"{self.encoder:.1f}", "–", "–", _signed(self._gain(self.encoder)), "–", "–", "–"]
        return [encoder, *(self._row(scores) for scores in self.scores)]

    def _gain(self, value: float | None) -> float | None:
        return None if value is None or self.full.mean is None else value - self.full.mean

    def _row(self, scores: Scores) -> list[str]:
        published = scores.row.published.davis_knn
        return [
            scores.row.label,
            MISSING if scores.mean is None else f"{scores.mean:.1f}",
            "–" if scores.deviation is None else f"{scores.deviation:.1f}",
            str(len(scores.by_seed)),
            "–" if scores.row.name == FULL.name else _signed(scores.gain_over(self.full)),
            _signed(None if scores.mean is None else scores.mean - self.encoder),
            f"{published:.1f}",
            "–" if scores.row.name == FULL.name else _signed(published - FULL.published.davis_knn),
        ]

    def markdown(self) -> str:
        """A GitHub table under its caption."""
        lines = [self.head(), ["---", *["---:"] * (len(self.head()) - 1)], *self.rows()]
        return self.caption + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def csv(self) -> str:
        """Comma-separated values with a head."""
        text = io.StringIO()
        csv.writer(text).writerows([self.head(), *self.rows()])
        return text.getvalue()

    def html(self, chart: str) -> str:
        """One page with the chart, an SVG, inside."""
        body = (
            heading("Ablations", level=1),
            paragraph(self.caption),
            Markup(chart),
            table(self.head(), self.rows()),
            paragraph(_NOTE),
        )
        return document("LILA: ablations", joined(body))

    def write(self, folder: Path) -> None:
        """ablations.md, .csv, .html and .svg."""
        chart = self.chart()
        for name, content in (
            ("ablations.md", self.markdown()),
            ("ablations.csv", self.csv()),
            ("ablations.svg", chart),
            ("ablations.html", self.html(chart)),
        ):
            (folder / name).write_text(content)

    def chart(self) -> str:
        """An SVG: each row's seeds as dots, its mean and deviation as a bar; the encoder as a line."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.5, 0.42 * len(self.scores) + 1.2), layout="constrained")
        axes = figure.subplots()
        for y, scores in enumerate(reversed(self.scores)):
            values = list(scores.by_seed.values())
            colour = "#c2410c" if scores.row.name == FULL.name else "#334155"
            axes.scatter(values, [y] * len(values), s=14, alpha=0.5, color=colour, zorder=3)
            if scores.mean is not None:
                axes.errorbar(
                    scores.mean, y, xerr=scores.deviation or 0, fmt="D", ms=6, capsize=4, color=colour, zorder=4
                )
        axes.axvline(self.encoder, color="#64748b", linestyle="--", linewidth=1)
        axes.annotate("encoder", (self.encoder, len(self.scores) - 0.4), ha="center", fontsize=8, color="#64748b")
        axes.set_yticks(range(len(self.scores)), [scores.row.label for scores in reversed(self.scores)])
        axes.set_ylim(-0.6, len(self.scores) - 0.1)
        axes.set_xlabel("J&F, local k-NN, %")
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        drawn = io.StringIO()
        FigureCanvasSVG(figure).print_svg(drawn)
        return drawn.getvalue()[drawn.getvalue().index("<svg") :]


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1f}"


_NOTE = (
    "“to full” and “to encoder” are differences in points; sd is over seeds. Published figures are the paper's, for "
    "ViT-S/14 on DAVIS-2017 val: only their differences compare with ours."
)
