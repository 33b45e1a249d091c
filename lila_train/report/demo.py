"""The demo's page: `report/index.html`, all in one file, and the figures in `report/summary.json`.

What the demo's page is made of: the store, the training run and the evaluation below one folder.

The scores: what was gained, the table, and every sequence by itself.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import stores
from lila_cues.viz.charts import curves
from lila_cues.viz.html import Markup, document, facts, flattened, folded, heading, joined, paragraph, table, write_page
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.results import Json, read_json, write_json
from lila_train.report import sections
from lila_train.report.sections import DavisResult
from lila_train.report.tables import MISSING, NAMES, percent, signed
from lila_train.training.losses import loss_titles
from lila_train.training.run_dir import RunDir
from stores.errors import LilaError

BUILD_LOG = "build.jsonl"


@dataclass(frozen=True)
class DemoInputs:
    """The folder of a demo run: `cues.zarr`, `train` and `eval` in it."""

    root: Path

    @property
    def run(self) -> RunDir:
        """The training run."""
        return RunDir(self.root / "train")

    @cached_property
    def davis(self) -> DavisResult:
        """The evaluation of its weights on held-out scenes."""
        _existing(self.root / "eval" / "result.json", "the evaluation's result", "lila-train eval davis-knn@lila")
        return DavisResult(self.root / "eval")

    @cached_property
    def store(self) -> stores.CueStore:
        """The cues it was trained on."""
        return stores.open(_existing(self.root / "cues.zarr", "the cue store", "lila-cues build"))

    @property
    def result(self) -> Json:
        """The evaluation's result."""
        return self.davis.content

    @cached_property
    def record(self) -> Json:
        """Settings and seconds of the training run."""
        return _json(self.run.record, "the record of the training run", "lila-train run")

    @property
    def weights(self) -> Path:
        """The trained decoder."""
        return _existing(self.run.weights, "the trained weights", "lila-train run")

    def seconds(self) -> dict[str, float]:
        """Where the time went: stage one as it logged it, the steps of stage two, each head's evaluation."""
        found = {"cues": 0.0} if self._build_log() else {}
        for line in self._build_log():
            found["cues"] += float(line.get("wall", 0.0))
            for part, seconds in line.get("seconds", {}).items():
                found[f"cues: {part}"] = found.get(f"cues: {part}", 0.0) + float(seconds)
        found["training"] = float(self.record["seconds"]["steps"])
        found |= {f"evaluation: {head}": float(seconds) for head, seconds in self.result["seconds"].items()}
        return {part: round(seconds, 2) for part, seconds in found.items()}

    def _build_log(self) -> list[Json]:
        log = self.root / "cues.zarr" / BUILD_LOG
        return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []

    def fingerprint(self) -> str:
        """Hex SHA-256 of what the page shows: cues, run and result."""
        shown = [self.store.fingerprint, self.record, self.result]
        return hashlib.sha256(json.dumps(shown, sort_keys=True, default=str).encode()).hexdigest()


def _existing(path: Path, what: str, command: str) -> Path:
    if not path.exists():
        raise LilaError(f"expected {what} at {path}, found nothing there; make it with `{command}`, or run `make demo`")
    return path


def _json(path: Path, what: str, command: str) -> Json:
    content = read_json(_existing(path, what, command))
    assert content is not None
    return content


COLUMNS = ("J", "F", "JF", "J_recall", "J_decay", "F_recall", "F_decay")


def points(value: float | None, better: int = 1) -> Markup:
    """A difference in points, coloured by whether it is for the better: upwards, or with −1 downwards."""
    if value is None:
        return Markup(MISSING)
    style = "gain" if value * better > 0 else "loss"
    return Markup(f'<span class="{style}">{signed(100 * value)}</span>')


def difference(one: float | None, other: float | None) -> float | None:
    """`other` minus `one`, None if either is missing."""
    return None if one is None or other is None else other - one


def headline(inputs: DemoInputs) -> Markup:
    """The figures that matter: J&F of the encoder and of LILA in per cent, and their difference in points."""
    encoder, lila = (inputs.result["scores"][head]["JF"] for head in ("encoder", "lila"))
    cells = (
        (percent(encoder), "J&amp;F, frozen encoder"),
        (percent(lila), "J&amp;F, LILA"),
        (points(difference(encoder, lila)).text, "points gained"),
    )
    inside = "".join(
        f'<div><div class="value">{value}</div><div class="label">{label}</div></div>' for value, label in cells
    )
    return Markup(f'<div class="headline">{inside}</div>')


def section(inputs: DemoInputs) -> Markup:
    """The table of the set, and of its sequences."""
    result = inputs.result
    counts = ", ".join(f"{value} {name}" for name, value in result["counts"].items())
    derived = result["derived"]
    explanation = (
        f"Labels of the first frame are carried through the video by nearest neighbours in feature space: {counts}. "
        f"Protocol {result['protocol']}: a window of {result['settings']['window']}² cells on a grid of "
        f"{derived['grid_cells'][1]}×{derived['grid_cells'][0]} (radius {derived['radius_cells']} cells, "
        f"{derived['radius_native_px']:.0f} pixels of the video). The frozen encoder is scored by its own grid of "
        "tokens, LILA by its map of the pixels, in one run. Figures are per cent; decay is better when it is low."
    )
    return joined([heading("Video object segmentation"), paragraph(explanation), _whole(inputs), _sequences(inputs)])


def _whole(inputs: DemoInputs) -> Markup:
    scores = inputs.result["scores"]
    rows: list[list[str | Markup]] = [
        [NAMES.get(head, head), *(percent(figures[name]) for name in COLUMNS)] for head, figures in scores.items()
    ]
    if {"encoder", "lila"} <= set(scores):
        gains = [difference(scores["encoder"][name], scores["lila"][name]) for name in COLUMNS]
        better = [-1 if "decay" in name else 1 for name in COLUMNS]
        rows.append(["difference", *(points(gain, way) for gain, way in zip(gains, better, strict=True))])
    headings = ["", "J", "F", "J&F", "J recall", "J decay", "F recall", "F decay"]
    return table(headings, rows)


def _sequences(inputs: DemoInputs) -> Markup:
    rows: list[list[str | Markup]] = []
    for name in inputs.davis.names:
        encoder, lila = (inputs.davis.figures(head, name)["JF"] for head in ("encoder", "lila"))
        objects = len(inputs.davis.objects("lila", name))
        rows.append(
            [
                name,
                str(objects),
                percent(encoder),
                percent(lila),
                points(difference(encoder, lila)),
                _bars(encoder, lila),
            ]
        )
    return joined(
        [
            heading("Every held-out sequence", 3),
            table(["sequence", "objects", "encoder J&F", "LILA J&F", "points", ""], rows),
        ]
    )


def _bars(encoder: float | None, lila: float | None) -> Markup:
    under, over = (100 * (value or 0) for value in (encoder, lila))
    return Markup(
        f'<td class="bar"><span class="under" style="width:{under:.1f}%"></span>'
        f'<span class="over" style="width:{over:.1f}%"></span></td>'
    )


TITLE = "LILA on rendered scenes"
NOTE = "A demonstration on rendered scenes with small networks; its figures do not compare with published ones."


@dataclass(frozen=True)
class DemoReport:
    """Where the page is; `fresh` says whether it was made now, or was there already for the same inputs."""

    page: Path
    summary: Path
    fresh: bool


def write_demo_report(root: Path, device: torch.device) -> DemoReport:
    """Make the page for a run folder, unless it is there for these very inputs."""
    inputs = DemoInputs(root)
    folder = root / "report"
    page, summary = folder / "index.html", folder / "summary.json"
    there = read_json(summary)
    if page.is_file() and there is not None and there.get("fingerprint") == inputs.fingerprint():
        return DemoReport(page, summary, fresh=False)
    began = time.monotonic()
    body = _body(inputs, device)
    seconds = inputs.seconds() | {"report": round(time.monotonic() - began, 2)}
    folder.mkdir(parents=True, exist_ok=True)
    write_page(page, document(TITLE, joined([body, _timing(seconds), _settings(inputs), _footer()])))
    write_json(summary, _summary(inputs, seconds))
    return DemoReport(page, summary, fresh=True)


def _body(inputs: DemoInputs, device: torch.device) -> Markup:
    model = ModelSpec(weights=inputs.weights).load(device)
    return joined(
        [
            _introduction(inputs),
            headline(inputs),
            section(inputs),
            sections.masks(inputs.davis),
            sections.features(inputs.davis, model),
            sections.cue_section(inputs.store),
            _training(inputs),
        ]
    )


def _introduction(inputs: DemoInputs) -> Markup:
    clips = len(inputs.store.complete_clips())
    lead = (
        f"A decoder was trained on the cues of {clips} rendered clips, without a label, on top of a frozen encoder. "
        f"On {inputs.result['counts']['sequences']} held-out clips its pixel features are compared with the encoder's."
    )
    return joined(
        [
            Markup('<span class="badge">Demonstration on rendered scenes</span>'),
            Markup(f"<h1>{TITLE}</h1>"),
            paragraph(lead, "lead"),
            paragraph(NOTE, "note"),
        ]
    )


def _training(inputs: DemoInputs) -> Markup:
    rows = inputs.run.rows()
    values = {title: np.array([row[name] for row in rows], float) for name, title in loss_titles().items()}
    chart = curves(np.array([row["step"] for row in rows], float), values, "step")
    explanation = f"Loss on the query view over {len(rows)} steps; thin lines are single steps, thick ones means of 20."
    return joined([heading("Training"), paragraph(explanation), chart])


def _timing(seconds: Mapping[str, float]) -> Markup:
    rows = [[name, f"{value:.1f}"] for name, value in seconds.items()]
    note = "The parts of the cues overlap: frames are decoded and maps compressed while the networks work."
    return joined([heading("Where the time went"), table(["part", "seconds"], rows), paragraph(note, "note")])


def _settings(inputs: DemoInputs) -> Markup:
    result, record = inputs.result, inputs.record
    groups: list[tuple[str, Mapping[str, Any]]] = [
        ("Model", result["model"]),
        ("Evaluation", result["settings"] | result["derived"]),
        ("Training", record["settings"]),
        ("Store", {"path": inputs.store.path, **inputs.store.provenance}),
    ]
    parts = [folded(name, facts(flattened(values))) for name, values in groups]
    return joined([heading("Settings and provenance"), *parts])


def _footer() -> Markup:
    from importlib.metadata import version

    return Markup(f"<footer>lila-pixels {version('lila-pixels')}. {NOTE}</footer>")


def _summary(inputs: DemoInputs, seconds: Mapping[str, float]) -> Json:
    """Figures are fractions of 1, as the official scorer prints them."""
    result = inputs.result
    scores = {head: {name: figures[name] for name in ("J", "F", "JF")} for head, figures in result["scores"].items()}
    return {
        "davis-knn": scores,
        "seconds": dict(seconds),
        "settings": {
            "protocol": result["protocol"],
            "evaluation": result["settings"] | result["derived"],
            "training": inputs.record["settings"],
            "device": result["device"],
        },
        "counts": result["counts"],
        "unit": "fractions of 1",
        "note": NOTE,
        "fingerprint": inputs.fingerprint(),
    }
