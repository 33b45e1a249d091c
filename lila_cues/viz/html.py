"""Self-contained HTML pages: one style sheet, pictures as base64, light or dark, no script, nothing fetched."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from lila_cues.viz.pictures import Picture
from stores.atomic import atomic_path


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already; a plain `str` is escaped wherever it is inserted."""

    text: str


Content = str | Markup


def write_page(path: Path, text: str) -> None:
    """Write a page atomically, so that a browser never sees half of it."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def document(title: str, body: Markup) -> str:
    """Return a complete HTML document."""
    style = (files("lila_cues.viz") / "assets" / "page.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body.text}\n</main>\n</body>\n</html>\n"
    )


def escaped(content: Content) -> str:
    """Return content as HTML text."""
    return content.text if isinstance(content, Markup) else html.escape(content)


def joined(parts: Iterable[Markup]) -> Markup:
    """Return the parts one below the other."""
    return Markup("\n".join(part.text for part in parts))


def heading(text: str, level: int = 2) -> Markup:
    """Return a heading of level 1 to 4."""
    return Markup(f"<h{level}>{html.escape(text)}</h{level}>")


def paragraph(content: Content, style: str = "") -> Markup:
    """Return a paragraph; `style` is a class of the style sheet."""
    return Markup(f'<p class="{style}">{escaped(content)}</p>' if style else f"<p>{escaped(content)}</p>")


def photo(picture: Picture, alt: str) -> Markup:
    """Return an embedded JPEG of quality 88."""
    return drawing(picture, alt, kind="jpeg")


def drawing(picture: Picture, alt: str, enlarge: bool = False, kind: str = "png") -> Markup:
    """Return an embedded image, lossless by default; `enlarge` keeps the cells of a coarse grid visible as squares."""
    style = "pixelated" if enlarge else ""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **({"quality": 88} if kind == "jpeg" else {}))
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Markup(f'<img class="{style}" alt="{html.escape(alt)}" src="data:image/{kind};base64,{content}">')


def figure(image: Markup, name: str, detail: str = "") -> Markup:
    """Return an image with its caption: a name in bold and a detail."""
    caption = f"<b>{html.escape(name)}</b> {html.escape(detail)}".strip()
    return Markup(f"<figure>{image.text}<figcaption>{caption}</figcaption></figure>")


def row(figures: Sequence[Markup], columns: int) -> Markup:
    """Return figures side by side, 2 to 4 of them in a line."""
    content = "\n".join(figure.text for figure in figures)
    return Markup(f'<div class="row of{columns}">\n{content}\n</div>')


def table(headings: Sequence[str], rows: Iterable[Sequence[Content]], styles: Sequence[str] = ()) -> Markup:
    """Return a table; `styles` gives the first rows a class each, and a cell may be a `<td>` of its own."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in headings)
    body = ""
    for n, cells in enumerate(rows):
        body += f'<tr class="{styles[n]}">' if n < len(styles) and styles[n] else "<tr>"
        for cell in cells:
            complete = isinstance(cell, Markup) and cell.text.startswith("<td")
            body += escaped(cell) if complete else f"<td>{escaped(cell)}</td>"
        body += "</tr>"
    return Markup(
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def facts(values: Mapping[str, Any]) -> Markup:
    """Return a table of settings: names, dotted where they are nested, and values, "–" for None."""
    body, pending = "", list(values.items())
    while pending:
        name, value = pending.pop(0)
        if isinstance(value, Mapping):
            pending[:0] = [(f"{name}.{key}", inner) for key, inner in value.items()]
        else:
            text = "–" if value is None else html.escape(str(value))
            body += f'<tr><td>{html.escape(name)}</td><td class="words">{text}</td></tr>'
    return Markup(f'<div class="scroll"><table><tbody>{body}</tbody></table></div>')


def folded(summary: str, content: Markup) -> Markup:
    """Return content that a click opens."""
    return Markup(f"<details><summary>{html.escape(summary)}</summary>\n{content.text}\n</details>")
