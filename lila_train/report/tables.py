"""One table per task from the results of evaluations, the published figures beside ours and marked as such."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lila_train.evaluation.result_folder import Json
from lila_train.report.page import Content, Markup, escaped, table
from lila_train.report.paper_results import SOURCE, paper_results
from lila_train.report.wording import METRICS, metric, shown

MEASURED = "measured"
TITLES = {
    "davis-knn": "Video object segmentation, local k-NN",
    "davis-lp": "Video object segmentation, linear probe",
    "nyuv2-normals": "Surface normals, NYUv2",
    "cocostuff27": "Semantic segmentation, COCO-Stuff-27",
    "ade20k150": "Semantic segmentation, ADE20K, 150 classes",
    "ade20k151": "Semantic segmentation, ADE20K, 151 classes",
    "cocostuff-zs": "Zero-shot segmentation, COCO-Stuff",
    "openvocab": "Open-vocabulary segmentation",
}


@dataclass(frozen=True)
class TableRow:
    """One model under one protocol. `source` is "measured", or where a published figure comes from."""

    model: str
    protocol: str
    figures: Mapping[str, float | None]
    counts: str
    source: str = MEASURED
    settings: str = ""


@dataclass(frozen=True)
class TaskTable:
    """The rows of one task, measured ones first; the columns are those metrics that a measured row has."""

    task: str
    rows: Sequence[TableRow]

    @property
    def title(self) -> str:
        """The task in words."""
        return TITLES.get(self.task, self.task)

    @property
    def metrics(self) -> list[str]:
        """Keys of the columns, in a fixed order; what is not known beforehand comes last."""
        found = dict.fromkeys(name for row in self.rows if row.source == MEASURED for name in row.figures)
        return [name for name in METRICS if name in found] + [name for name in found if name not in METRICS]

    def head(self) -> list[str]:
        """Headings of the columns."""
        return ["model", "protocol", *(metric(name).heading for name in self.metrics), "measured on", "source"]

    def lines(self) -> list[list[str]]:
        """Cells as text, a list per row, in the order of `head`."""
        return [
            [
                row.model,
                row.protocol,
                *(shown(name, row.figures.get(name)) for name in self.metrics),
                row.counts,
                row.source,
            ]
            for row in self.rows
        ]

    def html(self) -> Markup:
        """As HTML, published rows in italics; what is in words may break into lines, so that no column is cut off."""
        lines: list[list[Content]] = [
            [*cells[:-2], *(Markup(f'<td class="words small">{escaped(cell)}</td>') for cell in cells[-2:])]
            for cells in self.lines()
        ]
        return table(self.head(), lines, ["" if row.source == MEASURED else "published" for row in self.rows])

    def markdown(self) -> str:
        """As a GitHub table, published rows in italics."""
        lines = [self.head(), ["---"] * len(self.head())]
        for row, cells in zip(self.rows, self.lines(), strict=True):
            lines.append(cells if row.source == MEASURED else [f"*{cell}*" for cell in cells])
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        settings = dict.fromkeys(f"\n- `{row.protocol}`: {row.settings}" for row in self.rows if row.settings)
        listed = "".join(settings)
        return f"## {self.title}\n\n{body}\n{listed}" + ("\n" if listed else "")

    def csv(self) -> str:
        """Comma-separated values with a head; the settings of what was measured stand in the last column."""
        text = io.StringIO()
        lines = [[*cells, row.settings] for row, cells in zip(self.rows, self.lines(), strict=True)]
        csv.writer(text, lineterminator="\n").writerows([[*self.head(), "settings"], *lines])
        return text.getvalue()


def tables(results: Iterable[Json]) -> list[TaskTable]:
    """A table for each task that was measured, in the order of the first result of each."""
    rows: dict[str, list[TableRow]] = {}
    for result in results:
        task = result["protocol"].split("@")[0]
        found = rows.setdefault(task, [])
        found += [row for row in _measured(result) if row not in found]
    return [TaskTable(task, [*found, *_published(task)]) for task, found in rows.items()]


def _measured(result: Json) -> list[TableRow]:
    model = result.get("model", {})
    encoder = str(model.get("encoder", "encoder"))
    counts = ", ".join(f"{count} {name}" for name, count in result["counts"].items())
    names = {"encoder": encoder, "lila": f"{encoder} + LILA"}
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items() if value is not None)
    return [
        TableRow(names.get(head, f"{encoder} + {head}"), result["protocol"], figures, counts, settings=settings)
        for head, figures in result["scores"].items()
    ]


def _published(task: str) -> list[TableRow]:
    return [
        TableRow(row.model, row.protocol, row.figures, "the full set", f"published: {SOURCE}")
        for row in paper_results(task)
    ]
