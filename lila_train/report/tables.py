"""Tables of evaluation results: one per task, the paper's published metrics beside ours and marked as such."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lila_cues import console
from lila_train.evaluation.models import ENCODER, LilaModel
from lila_train.model.released import WEIGHTS_FILE
from lila_train.outputs import Json

MISSING = "–"  # in place of a metric that was not measured; never 0
MEASURED = "measured"
TEXT_COLUMNS = ("model", "weights", "protocol", "measured on", "source")
CHANGED = "-changed"  # ends the name of a table of evaluations with changed settings
DAVIS_2016 = "-2016"  # ends the name of a table of evaluations on DAVIS-2016, otherwise as the protocol has it
HEAD_NAMES = {ENCODER: "frozen encoder", LilaModel.head: "LILA"}


class Metric(NamedTuple):
    """The heading of a metric's column, the factor to its shown unit, and the digits after the point."""

    heading: str
    scale: float = 100.0
    digits: int = 1


METRICS = {
    "JF": Metric("J&F"),
    "J": Metric("J mean"),
    "J_recall": Metric("J recall"),
    "J_decay": Metric("J decay"),
    "F": Metric("F mean"),
    "F_recall": Metric("F recall"),
    "F_decay": Metric("F decay"),
    "rmse_deg": Metric("RMSE °", 1.0, 2),
    "under_11.25": Metric("< 11.25°"),
    "under_22.5": Metric("< 22.5°"),
    "under_30": Metric("< 30°"),
    "rmse_m": Metric("RMSE m", 1.0, 3),
    "abs_rel": Metric("AbsRel", 1.0, 3),
    "delta1": Metric("δ1"),
    "miou": Metric("mIoU"),
    "pixel_accuracy": Metric("pixel accuracy"),
    "miou_seen": Metric("mIoU seen"),
    "miou_unseen": Metric("mIoU unseen"),
    "miou_harmonic": Metric("harmonic"),
    "stability": Metric("stability, bilinear", 1.0, 3),
    "stability_cells": Metric("stability, cells", 1.0, 3),
    "cosine_corresponding": Metric("cosine, corresponding", 1.0, 3),
    "cosine_random": Metric("cosine, random", 1.0, 3),
    "pck_image": Metric("PCK@0.10 per image"),
    "pck_point": Metric("PCK@0.10 per point"),
    "delta_avg": Metric("δ avg"),
    "occlusion_accuracy": Metric("occlusion accuracy"),
    "average_jaccard": Metric("average Jaccard"),
    "absent_classes": Metric("classes absent", 1.0, 0),
}
TITLES = {
    "davis-knn": "Video object segmentation, local k-NN",
    "davis-lp": "Video object segmentation, linear probe",
    "davis-stability": "Temporal stability, DAVIS",
    "spair71k-knn": "Semantic correspondence, SPair-71k",
    "tapvid-davis": "Point tracking, TAP-Vid DAVIS",
    "nyuv2-normals": "Surface normals, NYUv2",
    "nyuv2-depth": "Depth, NYUv2",
    "cocostuff27": "Semantic segmentation, COCO-Stuff-27",
    "ade20k150": "Semantic segmentation, ADE20K, 150 classes",
    "ade20k151": "Semantic segmentation, ADE20K, 151 classes",
    "cocostuff-zs": "Zero-shot segmentation, COCO-Stuff",
    "openvocab": "Open-vocabulary segmentation",
}

# Published figures, second-hand from reading notes. Percent; degrees and m for an RMSE.
PAPER = "LILA, arXiv 2604.26488"
SECOND_HAND = "LingBot-Vision (arXiv 2607.05247) and V-JEPA 2.1, second-hand"
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
_DAVIS_480 = {"DINOv3-7B": (71.1,), "LingBot-Vision-g": (70.0,), "V-JEPA 2.1-G": (69.0,), "DINOv2-g": (63.9,)}
_DEPTH = {  # RMSE in m
    "DINOv3-7B": (0.309,),
    "LingBot-Vision-L": (0.310,),
    "LingBot-Vision-g": (0.296,),
    "V-JEPA 2.1-G": (0.307,),
}


class Published(NamedTuple):
    """Figures of models under one protocol; a metric without a name is not of this protocol."""

    source: str
    metrics: tuple[str | None, ...]
    models: Mapping[str, Sequence[float | None]]


PUBLISHED = {
    "davis-lp@lila": Published(PAPER, ("JF", None), _DAVIS),
    "davis-knn@lila": Published(PAPER, (None, "JF"), _DAVIS),
    "davis-knn@dino": Published(SECOND_HAND, ("JF",), _DAVIS_480),
    "davis-knn@dino960": Published(
        "DINOv3's model card, second-hand; probably this size", ("JF",), {"DINOv3-7B": (79.7,)}
    ),
    "nyuv2-normals@lila": Published(PAPER, ("rmse_deg", "under_11.25"), _NORMALS),
    "nyuv2-depth@linear": Published(f"{SECOND_HAND}; other settings", ("rmse_m",), _DEPTH),
    "cocostuff27@lila": Published(PAPER, ("miou", "pixel_accuracy"), _COCO_STUFF),
}


@dataclass(frozen=True)
class TableRow:
    """One model under one protocol. `source` is "measured", or where a published metric comes from."""

    model: str
    protocol: str
    metrics: Mapping[str, float | None]
    counts: str
    weights: str = ""
    source: str = MEASURED
    settings: str = ""


@dataclass(frozen=True)
class TaskTable:
    """The rows of one task, measured ones first, then what was published under the protocols of these.

    The columns are the metrics that a measured row has. Evaluations on DAVIS-2016 and those with changed settings have
    tables of their own, without published rows.
    """

    name: str  # as of `table_name`
    rows: Sequence[TableRow]

    @property
    def title(self) -> str:
        task = self.name.removesuffix(CHANGED).removesuffix(DAVIS_2016)
        endings = {CHANGED: ": changed settings", DAVIS_2016: ", DAVIS-2016"}
        return TITLES.get(task, task) + endings.get(self.name.removeprefix(task), "")

    def columns(self) -> list[str]:
        return in_order(name for row in self.rows if row.source == MEASURED for name in row.metrics)

    def head(self) -> list[str]:
        """Return the headings of the columns."""
        metrics = (metric(name).heading for name in self.columns())
        return [*TEXT_COLUMNS[:3], *metrics, *TEXT_COLUMNS[3:]]

    def lines(self) -> list[list[str]]:
        """Return the cells as text, a list per row, in the order of `head`."""
        return [
            [
                row.model,
                row.weights or MISSING,
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
    """Return a table for each task that was measured, and one for its evaluations with changed settings.

    Tables and protocols are in the order of the first result of each; tables of changed settings are last.
    """
    rows: dict[str, list[TableRow]] = {}
    for result in results:
        measured = rows.setdefault(table_name(result["protocol"]), [])
        measured += [row for row in _measured(result) if row not in measured]
    for measured in rows.values():
        protocols = [row.protocol for row in measured]
        measured.sort(key=lambda row: protocols.index(row.protocol))
    ordered = sorted(rows, key=lambda name: name.endswith(CHANGED))
    protocols_of = {name: dict.fromkeys(row.protocol for row in rows[name]) for name in ordered}
    return [
        TaskTable(name, [*rows[name], *(row for each in protocols for row in paper_results(each))])
        for name, protocols in protocols_of.items()
    ]


def task_of(protocol: str) -> str:
    """Return the task of a protocol: the part of its id before the @."""
    return protocol.partition("+")[0].partition("@")[0]


def table_name(protocol: str) -> str:
    """Return the name of an evaluation's table: its task, with `-changed` for changed settings, named after a +.

    DAVIS-2016 with the settings of the protocol has one too.
    """
    return task_of(protocol) + {"": "", "year=2016": DAVIS_2016}.get(protocol.partition("+")[2], CHANGED)


def in_order(names: Iterable[str]) -> list[str]:
    """Return different names of metrics in the order of METRICS, unknown ones last."""
    different = dict.fromkeys(names)
    return [name for name in METRICS if name in different] + [name for name in different if name not in METRICS]


def _measured(result: Json) -> list[TableRow]:
    model = result.get("model", {})
    encoder = str(model.get("encoder", "encoder"))
    names = {ENCODER: encoder, LilaModel.head: f"{encoder} + LILA"}
    return [
        TableRow(
            names.get(head, f"{encoder} + {head}"),
            result["protocol"],
            metrics,
            console.counted(result["counts"]),
            weights_of(model, head),
            settings=listed(result["settings"]),
        )
        for head, metrics in result["scores"].items()
    ]


def weights_of(model: Json, head: str) -> str:
    """Return the identity of a head's weights: run folder or file, training steps, the first digits of hashes."""
    baseline, encoder = model.get("baseline"), model.get("encoder_weights")
    if isinstance(baseline, dict) and (head != ENCODER or encoder is None):
        names = "revision", "baseline_weights", "baseline_weights_sha256", "baseline_sha256"
        parts = [baseline.get(name) for name in names]
        parts[1] = parts[1] and str(parts[1]).rpartition("/")[2]
    elif head == LilaModel.head:
        step = f"step {model['step']}" if "step" in model else None
        parts = [str(model.get("weights", "")).removesuffix(f"/{WEIGHTS_FILE}"), step, model.get("weights_sha256")]
    else:
        parts = [encoder.get("sha256") if isinstance(encoder, dict) else encoder]
    return ", ".join(re.sub(r"^([0-9a-f]{8})[0-9a-f]{32,}$", r"\1", str(part)) for part in parts if part)


def listed(values: Mapping[str, Any], prefix: str = "") -> str:
    """Return settings as text, nested ones with dotted names; those that are None are left out."""
    return ", ".join(
        listed(value, f"{prefix}{name}.") if isinstance(value, Mapping) else f"{prefix}{name} {_shown(value)}"
        for name, value in values.items()
        if value is not None
    )


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ("×" if all(isinstance(one, int) for one in value) else "/").join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def paper_results(protocol: str) -> list[TableRow]:
    """Return the published rows of a protocol, in the units of results; none where nothing was published."""
    published = PUBLISHED.get(protocol, Published("", (), {}))
    rows = []
    for model, values in published.models.items():
        found = {
            name: value / metric(name).scale
            for name, value in zip(published.metrics, values, strict=True)
            if name is not None and value is not None
        }
        rows.append(TableRow(model, protocol, found, "the full set", source=f"published: {published.source}"))
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
    """Return a metric in percent, degrees or as a count, according to its name; None is "–", never 0."""
    _, scale, digits = metric(name)
    return MISSING if value is None else f"{scale * value:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a fraction in percent with one decimal; None is "–"."""
    return MISSING if value is None else f"{100 * value:.1f}"


def signed(value: float | None) -> str:
    """Return a number with one decimal and its sign, U+2212 for minus; None is "–"."""
    return MISSING if value is None else f"{value:+.1f}".replace("-", "−")


def head_title(head: str) -> str:
    """Return the caption of a head's picture."""
    return "Encoder" if head == ENCODER else HEAD_NAMES.get(head, head)
