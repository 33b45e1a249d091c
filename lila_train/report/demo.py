"""The demo's page, `report/index.html`, with its metrics in `report/summary.json`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

import stores
from lila_cues import console
from lila_cues.viz import html
from lila_cues.viz.charts import loss_curves
from lila_cues.viz.pictures import flow_wheel
from lila_train.evaluation.model_spec import ModelSpec
from lila_train.outputs import Json, read_json, write_json
from lila_train.report import sections
from lila_train.report.sections import DavisResult
from lila_train.report.tables import HEAD_NAMES, METRICS, MISSING, percent, signed
from lila_train.training.losses import loss_titles
from lila_train.training.run_dir import RunDir
from stores.atomic import read_lines
from stores.errors import LilaError

NOTE = "A demonstration on rendered scenes with small networks; its scores do not compare with published ones."
COLUMNS = ("JF", "J", "J_recall", "J_decay", "F", "F_recall", "F_decay")


def write_demo_report(root: Path, device: torch.device) -> tuple[Path, bool]:
    """Write the page for the folder of a demo run. Return its path, and False if it existed for the same inputs."""
    inputs = DemoInputs(root)
    page, summary = root / "report" / "index.html", root / "report" / "summary.json"
    existing = read_json(summary)
    if page.is_file() and existing is not None and existing.get("fingerprint") == inputs.fingerprint():
        return page, False
    began = time.monotonic()
    model, log = ModelSpec(weights=inputs.weights).load(device), inputs.run.rows()
    davis, result = inputs.davis, inputs.result
    content = {
        "clips": len(inputs.store.complete_clips()),
        "sequences": [
            (name, len(davis.objects("lila", name)), *(davis.metrics(head, name)["JF"] for head in ("encoder", "lila")))
            for name in davis.names
        ],
        "masks": sections.masks(davis),
        "features": sections.features(davis, model),
        "cues": sections.cue_section(inputs.store),
        "steps": len(log),
        "losses": loss_curves(log, loss_titles()),
        "settings": {
            "Model": result["model"],
            "Evaluation": result["settings"] | result["derived"],
            "Training": inputs.record["settings"],
            "Store": {"path": inputs.store.path, **inputs.store.provenance},
        },
    }
    seconds = inputs.seconds() | {"report": round(time.monotonic() - began, 2)}
    html.render(
        "demo.html",
        page,
        title="LILA on rendered scenes",
        note=NOTE,
        version=version("lila-pixels"),
        result=result,
        columns={name: METRICS[name].heading for name in COLUMNS},
        head_names=HEAD_NAMES,
        wheel=flow_wheel(144),
        seconds=[(name, f"{value:.1f}") for name, value in seconds.items()],
        percent=percent,
        counts=console.counted(result["counts"]),
        points=points,
        **content,
    )
    write_json(summary, _summary(inputs, seconds))
    return page, True


class DemoInputs:
    """The folder of a demo run: the store `cues.zarr`, the training run `train`, the evaluation `eval`.

    LilaError names a missing part and the command that makes it.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, RunDir(root / "train")
        self.store = stores.open(_existing(root / "cues.zarr", "the cue store", "lila-cues build"))
        self.weights = _existing(self.run.weights, "the trained weights", "lila-train run")
        record = _existing(self.run.record, "the record of the training run", "lila-train run")
        self.record = read_json(record) or {}  # settings and seconds
        if "seconds" not in self.record:
            raise LilaError(f"expected a finished run in {self.run.root}, found one that is not; run `lila-train run`")
        _existing(root / "eval" / "result.json", "the evaluation's result", "lila-train eval davis-knn@lila")
        self.davis = DavisResult(root / "eval")
        self.result = self.davis.content

    def seconds(self) -> dict[str, float]:
        """Return the seconds of stage one with its parts, of the steps of stage two, and of the evaluation."""
        seconds: dict[str, float] = {}
        log = self.root / "cues.zarr" / "build.jsonl"
        for line in read_lines(log, "wall")[0]:
            parts = {f"cues: {part}": value for part, value in line.get("seconds", {}).items()}
            for part, value in ({"cues": line["wall"]} | parts).items():
                seconds[part] = seconds.get(part, 0.0) + float(value)
        seconds["training"] = float(self.record["seconds"]["steps"])
        if "wall_seconds" in self.result:
            seconds["evaluation"] = float(self.result["wall_seconds"])
        return {part: round(value, 2) for part, value in seconds.items()}

    def fingerprint(self) -> str:
        """Return the SHA-256 of what the page shows: cues, run and result."""
        shown = [self.store.fingerprint, self.record, self.result]
        return hashlib.sha256(json.dumps(shown, sort_keys=True, default=str).encode()).hexdigest()


def _existing(path: Path, what: str, command: str) -> Path:
    if not path.exists():
        raise LilaError(f"expected {what} at {path}, found nothing there; make it with `{command}`, or run `make demo`")
    return path


def points(before: float | None, after: float | None, lower_is_better: bool = False) -> tuple[str, str]:
    """Return the difference of two fractions in points, and "gain" or "loss"; "–" and "" if one is missing."""
    if before is None or after is None:
        return MISSING, ""
    gain = after - before
    return signed(100 * gain), "gain" if (gain < 0 if lower_is_better else gain > 0) else "loss"


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
