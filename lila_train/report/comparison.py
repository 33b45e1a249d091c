"""The report on finished evaluations: index.html, tables.md and a CSV file per task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lila_cues.viz.html import Markup, document, facts, folded, heading, joined, paragraph, write_page
from lila_train.evaluation.results import Json, read_result
from lila_train.report import sections
from lila_train.report.tables import tables, task_of

TITLE = "LILA: results"
NOTE = (
    "Scores compare only under one protocol, whose id is in every row. Rows in italics are published scores, "
    "copied and not measured here; a missing score was not measured."
)


def write_comparison(results: Sequence[Path], out: Path) -> list[Path]:
    """Write the report on these results below `out` and return the files, the page first."""
    contents = [read_result(path) for path in results]
    folders = [path if path.is_dir() else path.parent for path in results]
    task_tables = tables(contents)
    parts = [heading(TITLE, 1), paragraph(NOTE, "note")]
    for each in task_tables:
        parts += [heading(each.title), each.html()]
        parts += [
            _pictures(folder, content)
            for folder, content in zip(folders, contents, strict=True)
            if task_of(content["protocol"]) == each.task
        ]
    parts.append(heading("Settings"))
    for content in contents:
        keys = ("settings", "derived", "counts", "model", "fingerprint")
        shown: Json = {key: content[key] for key in keys if key in content}
        title = f"{content['protocol']}, {content.get('fingerprint', '')[:12]}"
        parts.append(folded(title, facts(shown)))
    files = {
        out / "index.html": document(TITLE, joined(parts)),
        out / "tables.md": f"{NOTE}\n\n" + "\n".join(each.markdown() for each in task_tables),
        **{out / f"{each.task}.csv": each.csv() for each in task_tables},
    }
    out.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        write_page(path, text)
    return list(files)


def _pictures(folder: Path, content: Json) -> Markup:
    """Return examples, or masks of DAVIS, or a note that predictions or data are no longer there."""
    name = f"{content['protocol']}, {content.get('model', {}).get('encoder', folder.name)}"
    if (folder / "examples").is_dir():
        return sections.example_section(folder, list(content["scores"]), name)
    if (folder / "predictions").is_dir() and Path(content["data_root"]).is_dir():
        return sections.masks(sections.DavisResult(folder), f"Masks, predicted and true: {name}", level=3)
    return paragraph(f"The predictions or the data behind {folder} are no longer available.", "note")
