"""The demo's page, `report/index.html`, with its metrics in `report/summary.json`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import stores
from lila_cues.viz.charts import curves
from lila_cues.viz.html import (
    Content,
    Markup,
    document,
    facts,
    folded,
    heading,
    joined,
    paragraph,
    table,
    write_page,
)
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.results import Json, read_json, write_json
from lila_train.report import sections
from lila_train.report.sections import DavisResult
from lila_train.report.tables import HEAD_NAMES, METRICS, MISSING, percent, signed
from lila_train.training.losses import loss_titles
from lila_train.training.run_dir import RunDir
from stores.errors import LilaError

TITLE = "LILA on rendered scenes"
NOTE = "A demonstration on rendered scenes with small networks; its scores do not compare with published ones."
COLUMNS = ("J", "F", "JF", "J_recall", "J_decay", "F_recall", "F_decay")


def write_demo_report(root: Path, device: torch.device) -> tuple[Path, bool]:
    """Write the page for the folder of a demo run. Return its path, and False if it existed for the same inputs."""
    inputs = DemoInputs(root)
    page, summary = root / "report" / "index.html", root / "report" / "summary.json"
    existing = read_json(summary)
    if page.is_file() and existing is not None and existing.get("fingerprint") == inputs.fingerprint():
        return page, False
    began = time.monotonic()
    model = ModelSpec(weights=inputs.weights).load(device)
    parts = [
        _introduction(inputs),
        _headline(inputs),
        _scores(inputs),
        sections.masks(inputs.davis),
        sections.features(inputs.davis, model),
        sections.cue_section(inputs.store),
        _training(inputs),
    ]
    seconds = inputs.seconds() | {"report": round(time.monotonic() - began, 2)}
    parts += [_timing(seconds), _settings(inputs)]
    parts.append(Markup(f"<footer>lila-pixels {version('lila-pixels')}. {NOTE}</footer>"))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_page(page, document(TITLE, joined(parts)))
    write_json(summary, _summary(inputs, seconds))
    return page, True


@dataclass(frozen=True)
class DemoInputs:
    """The folder of a demo run: the store `cues.zarr`, the training run `train`, the evaluation `eval`."""

    root: Path

    @property
    def run(self) -> RunDir:
        return RunDir(self.root / "train")

    @property
    def weights(self) -> Path:
        return _existing(self.run.weights, "the trained weights", "lila-train run")

    @cached_property
    def davis(self) -> DavisResult:
        _existing(self.root / "eval" / "result.json", "the evaluation's result", "lila-train eval davis-knn@lila")
        return DavisResult(self.root / "eval")

    @property
    def result(self) -> Json:
        return self.davis.content

    @cached_property
    def store(self) -> stores.CueStore:
        return stores.open(_existing(self.root / "cues.zarr", "the cue store", "lila-cues build"))

    @cached_property
    def record(self) -> Json:
        """Settings and seconds of the training run."""
        path = _existing(self.run.record, "the record of the training run", "lila-train run")
        record = read_json(path)
        assert record is not None
        return record

    def seconds(self) -> dict[str, float]:
        """Return the seconds of stage one with its parts, of the steps of stage two, and of each head's evaluation."""
        seconds: dict[str, float] = {}
        log = self.root / "cues.zarr" / "build.jsonl"
        for line in map(json.loads, log.read_text().splitlines() if log.is_file() else ()):
            parts = {f"cues: {part}": value for part, value in line.get("seconds", {}).items()}
            for part, value in ({"cues": line.get("wall", 0.0)} | parts).items():
                seconds[part] = seconds.get(part, 0.0) + float(value)
        seconds["training"] = float(self.record["seconds"]["steps"])
        seconds |= {f"evaluation: {head}": float(value) for head, value in self.result["seconds"].items()}
        return {part: round(value, 2) for part, value in seconds.items()}

    def fingerprint(self) -> str:
        """Return the SHA-256 of what the page shows: cues, run and result."""
        shown = [self.store.fingerprint, self.record, self.result]
        return hashlib.sha256(json.dumps(shown, sort_keys=True, default=str).encode()).hexdigest()


def _existing(path: Path, what: str, command: str) -> Path:
    if not path.exists():
        raise LilaError(f"expected {what} at {path}, found nothing there; make it with `{command}`, or run `make demo`")
    return path


def _introduction(inputs: DemoInputs) -> Markup:
    clips, held_out = len(inputs.store.complete_clips()), inputs.result["counts"]["sequences"]
    lead = (
        f"A decoder was trained on the cues of {clips} rendered clips, without a label, on top of a frozen encoder. "
        f"On {held_out} held-out clips its pixel features are compared with the encoder's."
    )
    badge = Markup('<span class="badge">Demonstration on rendered scenes</span>')
    return joined([badge, heading(TITLE, 1), paragraph(lead, "lead"), paragraph(NOTE, "note")])


def _headline(inputs: DemoInputs) -> Markup:
    encoder, lila = (inputs.result["scores"][head]["JF"] for head in ("encoder", "lila"))
    cells = (
        (percent(encoder), "J&amp;F, frozen encoder"),
        (percent(lila), "J&amp;F, LILA"),
        (points(encoder, lila).text, "points gained"),
    )
    content = "".join(
        f'<div><div class="value">{value}</div><div class="label">{label}</div></div>' for value, label in cells
    )
    return Markup(f'<div class="headline">{content}</div>')


def points(before: float | None, after: float | None, lower_is_better: bool = False) -> Markup:
    """Return the difference of two fractions in points, colored by whether it is an improvement."""
    if before is None or after is None:
        return Markup(MISSING)
    gain = after - before
    style = "gain" if (gain < 0 if lower_is_better else gain > 0) else "loss"
    return Markup(f'<span class="{style}">{signed(100 * gain)}</span>')


def _scores(inputs: DemoInputs) -> Markup:
    """The table over all sequences, and that of every sequence."""
    result = inputs.result
    scores, derived = result["scores"], result["derived"]
    counts = ", ".join(f"{value} {name}" for name, value in result["counts"].items())
    explanation = (
        f"Labels of the first frame are propagated through the video by nearest neighbors in feature space: {counts}. "
        f"Protocol {result['protocol']}: a window of {result['settings']['window']}² cells on a grid of "
        f"{derived['grid_cells'][1]}×{derived['grid_cells'][0]} (radius {derived['radius_cells']} cells, "
        f"{derived['radius_native_px']:.0f} pixels of the video). The frozen encoder is scored by its own grid of "
        "tokens, LILA by its map of the pixels, in one run. Scores are in percent; a low decay is better."
    )
    rows: list[list[Content]] = [
        [HEAD_NAMES.get(head, head), *(percent(values[name]) for name in COLUMNS)] for head, values in scores.items()
    ]
    if {"encoder", "lila"} <= set(scores):
        encoder, lila = scores["encoder"], scores["lila"]
        rows.append(["difference", *(points(encoder[name], lila[name], "decay" in name) for name in COLUMNS)])
    total = table(["", *(METRICS[name].heading for name in COLUMNS)], rows)
    by_sequence = table(
        ["sequence", "objects", "encoder J&F", "LILA J&F", "points", ""],
        [_sequence_row(inputs.davis, name) for name in inputs.davis.names],
    )
    return joined(
        [
            heading("Video object segmentation"),
            paragraph(explanation),
            total,
            heading("Every held-out sequence", 3),
            by_sequence,
        ]
    )


def _sequence_row(davis: DavisResult, name: str) -> list[Content]:
    encoder, lila = (davis.metrics(head, name)["JF"] for head in ("encoder", "lila"))
    bars = "".join(
        f'<span class="{style}" style="width:{100 * (value or 0):.1f}%"></span>'
        for style, value in (("under", encoder), ("over", lila))
    )
    objects = str(len(davis.objects("lila", name)))
    gain = points(encoder, lila)
    return [name, objects, percent(encoder), percent(lila), gain, Markup(f'<td class="bar">{bars}</td>')]


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
    groups: dict[str, Mapping[str, Any]] = {
        "Model": inputs.result["model"],
        "Evaluation": inputs.result["settings"] | inputs.result["derived"],
        "Training": inputs.record["settings"],
        "Store": {"path": inputs.store.path, **inputs.store.provenance},
    }
    parts = [folded(name, facts(values)) for name, values in groups.items()]
    return joined([heading("Settings and provenance"), *parts])


def _summary(inputs: DemoInputs, seconds: Mapping[str, float]) -> Json:
    """Return summary.json; metrics are fractions of 1, as the official scorer prints them."""
    result = inputs.result
    return {
        "davis-knn": {head: {name: one[name] for name in ("J", "F", "JF")} for head, one in result["scores"].items()},
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
