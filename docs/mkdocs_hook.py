"""Hook of mkdocs.yml: pages that are made of other files of the repository when the site is built."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/lila-pixels/lila-pixels/blob/main/"
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
API = {
    "model": ("A model", "lila_train.model.lila", "lila_train.model.prepared", "lila_train.model.export"),
    "stores": ("A store of cues", "stores.store", "stores.spec"),
    "training": ("Settings of training", "lila_train.training.config", "lila_train.evaluation.config"),
    "cues": ("Settings and networks of stage one", "lila_cues.config", "lila_cues.networks.encoder"),
}


def on_files(files: Files, config: Any) -> Files:
    """Add README, CONTRIBUTING and CHANGELOG, the notebook, and a page of the API reference per row of `API`."""
    made = {page: _relinked((ROOT / source).read_text()) for page, source in PAGES.items()}
    made["quickstart.md"] = _notebook(json.loads((ROOT / "docs/quickstart.ipynb").read_text()))
    for name, (title, *modules) in API.items():
        made[f"api/{name}.md"] = "\n\n".join((f"# {title}", *(f"::: {module}" for module in modules)))
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **rest: Any) -> str:
    """Lead links out of docs/ to the pages made of those files, or to the repository."""
    return re.sub(r"\]\(\.\./([\w./-]+)", lambda match: f"]({_target(match[1])}", markdown)


def _relinked(text: str) -> str:
    """Return the text of a file at the repository's root with links as they are from docs/."""
    return re.sub(r"\]\((?!\w+:)([\w./-]+)", lambda match: f"]({_target(match[1])}", text)


def _target(path: str) -> str:
    """Return a link from docs/ to a file of the repository: a page, a picture of docs/, or the repository's file."""
    if path in PAGES.values():
        return next(page for page, source in PAGES.items() if source == path)
    inside = path.removeprefix("docs/")
    return inside if inside != path and inside.endswith((".md", ".png", ".jpg", ".svg")) else REPOSITORY + path


def _notebook(notebook: dict[str, Any]) -> str:
    """Return a notebook without outputs as Markdown."""
    cells = (("".join(cell["source"]), cell["cell_type"]) for cell in notebook["cells"])
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in cells)
