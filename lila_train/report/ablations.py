"""The table of an ablation study: Markdown, CSV, HTML and a chart, the published figures beside ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lila_train.report import ablation_charts
from lila_train.report.page import Markup, document, escaped, heading, joined, paragraph, table, write_page
from lila_train.report.wording import MISSING
from lila_train.training.ablation_study import Finding, RowScores
from lila_train.training.ablations import FULL, Ablation

PUBLISHED_FIELDS = {"davis-knn@lila": "davis_knn", "davis-lp@lila": "davis_lp"}
"""By protocol: the field of `lila_train.training.ablations.PaperFigures` that its figures stand beside."""

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
            "–" if scores.deviation is None else f"{scores.deviation:.1f}",
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


def write_ablations(
    folder: Path, tables: Sequence[AblationTable], caption: str, losses: ablation_charts.Losses
) -> None:
    """ablations.md, .csv and .html of all protocols, a chart of each, ablations-PROTOCOL.svg, and one over steps.

    `caption` names the data, the counts and the settings; `losses` are those of every step, by row and seed.
    """
    charts = {found.finding.protocol: ablation_charts.by_row(found.finding) for found in tables}
    charts[STEPS] = ablation_charts.over_steps([found.finding for found in tables], losses)
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
