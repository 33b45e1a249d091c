"""The report on finished evaluations: index.html, tables.md and a CSV file per task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lila_cues.viz.html import Markup, document, facts, flattened, folded, heading, joined, paragraph, write_page
from lila_train.evaluation.results import read_result
from lila_train.report import sections
from lila_train.report.sections import DavisResult
from lila_train.report.tables import TaskTable, tables

TITLE = "LILA: results"
NOTE = (
    "Figures compare only under one protocol, whose id stands in every row. Rows in italics are published figures, "
    "copied and not measured here; a figure that is missing was not measured."
)


def write_comparison(results: Sequence[Path], out: Path) -> list[Path]:
    """Write the report on these results below `out`; the files written, the page first."""
    contents = [read_result(path) for path in results]
    found = tables(contents)
    parts = [heading(TITLE, 1), paragraph(NOTE, "note")]
    for one in found:
        parts += [heading(one.title), one.html(), *_qualitative(one, results, contents)]
    parts += [heading("Settings"), *(_settings(content) for content in contents)]
    out.mkdir(parents=True, exist_ok=True)
    page, markdown = out / "index.html", out / "tables.md"
    write_page(page, document(TITLE, joined(parts)))
    write_page(markdown, f"{NOTE}\n\n" + "\n".join(one.markdown() for one in found))
    spreadsheets = [out / f"{one.task}.csv" for one in found]
    for one, path in zip(found, spreadsheets, strict=True):
        write_page(path, one.csv())
    return [page, markdown, *spreadsheets]


def _qualitative(one: TaskTable, results: Sequence[Path], contents: Sequence[dict[str, Any]]) -> list[Markup]:
    """Pictures of every result of a task that are still there, or a word that they are not."""
    return [
        _pictures(path if path.is_dir() else path.parent, content)
        for path, content in zip(results, contents, strict=True)
        if content["protocol"].split("@")[0] == one.task
    ]


def _pictures(folder: Path, content: dict[str, Any]) -> Markup:
    name = f"{content['protocol']}, {content.get('model', {}).get('encoder', folder.name)}"
    if (folder / "examples").is_dir():
        return sections.example_section(folder, list(content["scores"]), name)
    if (folder / "predictions").is_dir() and Path(content["data_root"]).is_dir():
        return sections.masks(DavisResult(folder), f"Masks, predicted and true: {name}", level=3)
    return paragraph(f"The predictions or the data behind {folder} are not there to be shown.", "note")


def _settings(content: dict[str, Any]) -> Markup:
    shown: dict[str, Any] = {
        key: content[key] for key in ("settings", "derived", "counts", "model", "fingerprint") if key in content
    }
    return folded(f"{content['protocol']}, {content.get('fingerprint', '')[:12]}", facts(flattened(shown)))
