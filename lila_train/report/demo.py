"""The demo's page: `report/index.html`, all in one file, and the figures in `report/summary.json`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lila_train.evaluation.model_spec import ModelSpec
from lila_train.evaluation.result_folder import Json, read_json, write_json
from lila_train.report import cue_section, heldout_section, score_section
from lila_train.report.chart import curves
from lila_train.report.demo_inputs import DemoInputs
from lila_train.report.page import (
    Markup,
    document,
    facts,
    flattened,
    folded,
    heading,
    joined,
    paragraph,
    table,
    write_page,
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
            score_section.headline(inputs),
            score_section.section(inputs),
            heldout_section.masks(inputs.davis),
            heldout_section.features(inputs.davis, model),
            cue_section.section(inputs.store),
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
    steps, total, l1, edge = np.array([[row[key] for row in rows] for key in ("step", "loss", "l1", "edge")], float)
    chart = curves(steps, {"total": total, "L1": l1, "edge": edge}, "step")
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
