"""Figures of the paper, for the rows beside ours: LILA (CVPR 2026, arXiv 2604.26488), second-hand from reading notes.

Fractions of 1, angles in degrees. They are always marked as published, with the protocol that they come from.

One table per task from the results of evaluations, the published figures beside ours and marked as such.

Figures and names as the pages and tables of a report word them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lila_cues.viz.html import Content, Markup, escaped, table
from lila_train.evaluation.models import ENCODER, LilaModel
from lila_train.evaluation.results import Json

SOURCE = "LILA, arXiv 2604.26488"


@dataclass(frozen=True)
class PaperResult:
    """One model's figures under one protocol."""

    protocol: str
    model: str
    figures: Mapping[str, float]


_DAVIS = {  # J&F by linear probe, by local k-NN
    "DINOv2-S14": (57.5, 65.1),
    "DINOv2-S14 + FeatUp": (60.5, 65.5),
    "DINOv2-S14 + LoftUp": (63.0, 66.0),
    "DINOv2-S14 + FlowFeat": (65.8, 67.6),
    "DINOv2-S14 + LILA": (68.6, 73.9),
    "DINOv2-B14": (61.6, 66.4),
    "DINOv2-B14 + FlowFeat": (65.7, 69.0),
    "DINOv2-B14 + LILA": (70.4, 74.2),
    "DINOv2-L14 + LILA (Kinetics)": (69.3, 74.9),
}
_NORMALS: dict[str, tuple[float, float | None]] = {  # RMSE in degrees, share under 11.25°
    "DINOv2-S14": (29.71, 26.91),
    "DINOv2-S14 + FlowFeat": (29.04, 27.89),
    "DINOv2-S14 + LILA": (28.53, 31.14),
    "DINOv2-B14": (26.56, None),
    "DINOv2-B14 + LILA": (25.71, None),
    "DINOv2-L14": (24.70, 39.89),
    "DINOv2-L14 + LILA (Kinetics)": (24.04, 40.89),
}
_COCO_STUFF: dict[str, tuple[float, float | None]] = {  # mIoU, pixel accuracy
    "DINOv2-S14": (56.6, 77.2),
    "DINOv2-S14 + FlowFeat": (58.0, 78.7),
    "DINOv2-S14 + LILA": (59.6, 79.8),
    "DINOv2-B14": (58.5, None),
    "DINOv2-B14 + LILA": (62.4, None),
    "DINOv2-L14": (58.7, 78.1),
    "DINOv2-L14 + LILA (Kinetics)": (63.3, 81.4),
}


def paper_results(task: str) -> list[PaperResult]:
    """The rows of a task: the part of a protocol's id before the @."""
    return [row for row in _all() if row.protocol.split("@")[0] == task]


def _all() -> list[PaperResult]:
    rows = [PaperResult("davis-lp@lila", model, {"JF": probe / 100}) for model, (probe, _) in _DAVIS.items()]
    rows += [PaperResult("davis-knn@lila", model, {"JF": knn / 100}) for model, (_, knn) in _DAVIS.items()]
    for model, (rmse_deg, under) in _NORMALS.items():
        share = {} if under is None else {"under_11.25": under / 100}
        rows.append(PaperResult("nyuv2-normals@lila", model, {"rmse_deg": rmse_deg, **share}))
    for model, (miou, accuracy) in _COCO_STUFF.items():
        share = {} if accuracy is None else {"pixel_accuracy": accuracy / 100}
        rows.append(PaperResult("cocostuff27@lila", model, {"miou": miou / 100, **share}))
    return rows


MISSING = "missing"
"""In place of a figure that was not measured; never 0."""

NAMES = {ENCODER: "frozen encoder", LilaModel.head: "LILA"}
"""By head: what it is called in a table."""


@dataclass(frozen=True)
class Metric:
    """How a figure is shown: its heading, and what it is multiplied by."""

    heading: str
    scale: float = 100.0
    digits: int = 1


METRICS = {
    "JF": Metric("J&F"),
    "J": Metric("J"),
    "F": Metric("F"),
    "J_recall": Metric("J recall"),
    "J_decay": Metric("J decay"),
    "F_recall": Metric("F recall"),
    "F_decay": Metric("F decay"),
    "rmse_deg": Metric("RMSE °", 1.0, 2),
    "under_11.25": Metric("< 11.25°"),
    "under_22.5": Metric("< 22.5°"),
    "under_30": Metric("< 30°"),
    "miou": Metric("mIoU"),
    "pixel_accuracy": Metric("pixel accuracy"),
    "miou_seen": Metric("mIoU seen"),
    "miou_unseen": Metric("mIoU unseen"),
    "miou_harmonic": Metric("harmonic"),
    "absent_classes": Metric("classes absent", 1.0, 0),
}
"""By name in a result: the heading, and what makes per cent of a fraction; degrees and counts stay as they are."""


def title(head: str) -> str:
    """What a head is called above its picture."""
    return "Encoder" if head == ENCODER else NAMES.get(head, head)


def percent(value: float | None) -> str:
    """A figure in per cent with one decimal; what was not measured is missing."""
    return MISSING if value is None else f"{100 * value:.1f}"


def signed(value: float) -> str:
    """One decimal and a sign, the minus a true one."""
    return f"{value:+.1f}".replace("-", "−")


def shown(name: str, value: float | None) -> str:
    """A figure as text, in per cent, degrees or as a count by its name; what was not measured is missing, never 0."""
    found = metric(name)
    return MISSING if value is None else f"{found.scale * value:.{found.digits}f}"


def metric(name: str) -> Metric:
    """How the figure of that name is shown; as it is, with three digits, where the name is not known."""
    return METRICS.get(name, Metric(name, 1.0, 3))


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
