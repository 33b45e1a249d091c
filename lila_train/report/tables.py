"""Tables of evaluation results: one per task, the paper's published metrics beside ours and marked as such."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lila_train.evaluation.models import ENCODER, LilaModel
from lila_train.outputs import Json

MISSING = "missing"  # in place of a metric that was not measured; never 0
MEASURED = "measured"
HEAD_NAMES = {ENCODER: "frozen encoder", LilaModel.head: "LILA"}


class Metric(NamedTuple):
    """The heading of a metric's column, the factor to its shown unit, and the digits after the point."""

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

# Published by LILA (CVPR 2026), second-hand from reading notes. Percent, and degrees for the RMSE.
PAPER = "LILA, arXiv 2604.26488"
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
_NORMALS = {  # RMSE in degrees, share under 11.25°
    "DINOv2-S14": (29.71, 26.91),
    "DINOv2-S14 + FlowFeat": (29.04, 27.89),
    "DINOv2-S14 + LILA": (28.53, 31.14),
    "DINOv2-B14": (26.56, None),
    "DINOv2-B14 + LILA": (25.71, None),
    "DINOv2-L14": (24.70, 39.89),
    "DINOv2-L14 + LILA (Kinetics)": (24.04, 40.89),
}
_COCO_STUFF = {  # mIoU, pixel accuracy
    "DINOv2-S14": (56.6, 77.2),
    "DINOv2-S14 + FlowFeat": (58.0, 78.7),
    "DINOv2-S14 + LILA": (59.6, 79.8),
    "DINOv2-B14": (58.5, None),
    "DINOv2-B14 + LILA": (62.4, None),
    "DINOv2-L14": (58.7, 78.1),
    "DINOv2-L14 + LILA (Kinetics)": (63.3, 81.4),
}
PUBLISHED: dict[str, tuple[Mapping[str, Sequence[float | None]], tuple[str | None, ...]]] = {
    "davis-lp": (_DAVIS, ("JF", None)),
    "davis-knn": (_DAVIS, (None, "JF")),
    "nyuv2-normals": (_NORMALS, ("rmse_deg", "under_11.25")),
    "cocostuff27": (_COCO_STUFF, ("miou", "pixel_accuracy")),
}


@dataclass(frozen=True)
class TableRow:
    """One model under one protocol. `source` is "measured", or where a published metric comes from."""

    model: str
    protocol: str
    metrics: Mapping[str, float | None]
    counts: str
    source: str = MEASURED
    settings: str = ""


@dataclass(frozen=True)
class TaskTable:
    """The rows of one task, measured ones first; the columns are the metrics that a measured row has."""

    task: str
    rows: Sequence[TableRow]

    @property
    def title(self) -> str:
        return TITLES.get(self.task, self.task)

    def columns(self) -> list[str]:
        """Return the metrics' names in the order of METRICS, unknown ones last."""
        measured = dict.fromkeys(name for row in self.rows if row.source == MEASURED for name in row.metrics)
        return [name for name in METRICS if name in measured] + [name for name in measured if name not in METRICS]

    def head(self) -> list[str]:
        """Return the headings of the columns."""
        return ["model", "protocol", *(metric(name).heading for name in self.columns()), "measured on", "source"]

    def lines(self) -> list[list[str]]:
        """Return the cells as text, a list per row, in the order of `head`."""
        return [
            [
                row.model,
                row.protocol,
                *(metric_text(name, row.metrics.get(name)) for name in self.columns()),
                row.counts,
                row.source,
            ]
            for row in self.rows
        ]

    def markdown(self) -> str:
        """Return the table as Markdown under its title, published rows in italics, and the settings below it."""
        lines = [
            cells if row.source == MEASURED else [f"*{cell}*" for cell in cells]
            for row, cells in zip(self.rows, self.lines(), strict=True)
        ]
        settings = dict.fromkeys(f"\n- `{row.protocol}`: {row.settings}" for row in self.rows if row.settings)
        return f"## {self.title}\n\n{markdown_table(self.head(), lines)}" + "".join(settings) + "\n" * bool(settings)

    def csv(self) -> str:
        """Return the table as comma-separated values, with the settings of measured rows in the last column."""
        text = io.StringIO()
        lines = [[*cells, row.settings] for row, cells in zip(self.rows, self.lines(), strict=True)]
        csv.writer(text, lineterminator="\n").writerows([[*self.head(), "settings"], *lines])
        return text.getvalue()


def tables(results: Iterable[Json]) -> list[TaskTable]:
    """Return a table for each task that was measured, in the order of the first result of each."""
    rows: dict[str, list[TableRow]] = {}
    for result in results:
        measured = rows.setdefault(task_of(result["protocol"]), [])
        measured += [row for row in _measured(result) if row not in measured]
    return [TaskTable(task, [*measured, *paper_results(task)]) for task, measured in rows.items()]


def task_of(protocol: str) -> str:
    """Return the task of a protocol: the part of its id before the @."""
    return protocol.partition("@")[0]


def _measured(result: Json) -> list[TableRow]:
    encoder = str(result.get("model", {}).get("encoder", "encoder"))
    names = {ENCODER: encoder, LilaModel.head: f"{encoder} + LILA"}
    counts = ", ".join(f"{count} {name}" for name, count in result["counts"].items())
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items() if value is not None)
    return [
        TableRow(names.get(head, f"{encoder} + {head}"), result["protocol"], metrics, counts, settings=settings)
        for head, metrics in result["scores"].items()
    ]


def paper_results(task: str) -> list[TableRow]:
    """Return the published rows of a task, as fractions of 1 and in degrees; none where nothing was published."""
    models, names = PUBLISHED.get(task, ({}, ()))
    rows = []
    for model, values in models.items():
        found = {
            name: value / metric(name).scale
            for name, value in zip(names, values, strict=True)
            if name is not None and value is not None
        }
        rows.append(TableRow(model, f"{task}@lila", found, "the full set", f"published: {PAPER}"))
    return rows


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[str] | None = None) -> str:
    """Return a Markdown table; the columns in `left` are left-aligned (None: all), the others right-aligned."""
    rule = ["---" if left is None or name in left else "---:" for name in head]
    lines = [" | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) for row in (head, rule, *rows)]
    return "".join(f"| {line} |\n" for line in lines)


def metric(name: str) -> Metric:
    """Return how a metric is shown; unknown ones unscaled, with three digits."""
    return METRICS.get(name, Metric(name, 1.0, 3))


def metric_text(name: str, value: float | None) -> str:
    """Return a metric in percent, degrees or as a count, according to its name; None is "missing", never 0."""
    _, scale, digits = metric(name)
    return MISSING if value is None else f"{scale * value:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a fraction in percent with one decimal; None is "missing"."""
    return MISSING if value is None else f"{100 * value:.1f}"


def signed(value: float) -> str:
    """Return a number with one decimal and its sign, U+2212 for minus."""
    return f"{value:+.1f}".replace("-", "−")


def head_title(head: str) -> str:
    """Return the caption of a head's picture."""
    return "Encoder" if head == ENCODER else HEAD_NAMES.get(head, head)
