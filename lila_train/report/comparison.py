"""The report on finished evaluations: index.html, tables.md and a CSV file per task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lila_cues.viz import html
from lila_train.evaluation.results import read_result
from lila_train.report import sections
from lila_train.report.tables import MEASURED, TEXT_COLUMNS, table_name, tables, task_of, weights_of
from stores.atomic import atomic_write

NOTE = (
    "Scores compare only under one protocol, whose id is in every row. Rows in italics are published scores, "
    "copied and not measured here; – is a score that was not measured."
)


def write_comparison(results: Sequence[Path], out: Path) -> list[Path]:
    """Write the report on these results below `out` and return the files, the page first."""
    contents = [read_result(path) for path in results]
    folders = [path if path.is_dir() else path.parent for path in results]
    task_tables = tables(contents)
    galleries: dict[str, list[html.Gallery]] = {}
    settings = []
    for folder, content in zip(folders, contents, strict=True):
        model, heads = content.get("model", {}), list(content["scores"])
        weights = weights_of(model, heads[-1])
        name = ", ".join(filter(None, (content["protocol"], str(model.get("encoder", folder.name)), weights)))
        if (folder / "examples").is_dir():
            pictures = sections.example_section(folder, heads, name)
        elif (folder / "predictions").is_dir() and Path(content["data_root"]).is_dir():
            pictures = sections.masks(sections.DavisResult(folder), f"Masks, predicted and true: {name}")
        elif task_of(content["protocol"]) == "davis-stability":
            pictures = html.Gallery(name, "No pictures: cosines of features at points that are drawn at random.")
        else:
            pictures = html.Gallery(name, f"The predictions or the data behind {folder} are no longer available.")
        galleries.setdefault(table_name(content["protocol"]), []).append(pictures)
        keys = ("settings", "derived", "counts", "model", "fingerprint")
        shown = {key: content[key] for key in keys if key in content}
        settings.append((f"{name}, fingerprint {content.get('fingerprint', '')[:12]}", shown))
    tasks = [
        (each, ["" if row.source == MEASURED else "published" for row in each.rows], galleries[each.name])
        for each in task_tables
    ]
    page = out / "index.html"
    html.render(
        "comparison.html", page, title="LILA: results", note=NOTE, texts=TEXT_COLUMNS, tasks=tasks, settings=settings
    )
    files = {
        out / "tables.md": f"{NOTE}\n\n" + "\n".join(each.markdown() for each in task_tables),
        **{out / f"{each.name}.csv": each.csv() for each in task_tables},
    }
    for path, text in files.items():
        atomic_write(text, path)
    return [page, *files]
