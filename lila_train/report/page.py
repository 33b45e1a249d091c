"""Pieces of a self-contained HTML page: pictures inside as base64, no script, nothing fetched."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lila_train.report.style import CSS
from lila_train.whole_files import written_whole
from stores.pictures import Picture, png_bytes

JPEG_QUALITY = 88


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already; a plain `str` is escaped wherever it is put."""

    text: str


Content = str | Markup


def escaped(content: Content) -> str:
    """HTML of a piece of content."""
    return content.text if isinstance(content, Markup) else html.escape(content)


def joined(parts: Iterable[Markup]) -> Markup:
    """The parts one below the other, as one."""
    return Markup("\n".join(part.text for part in parts))


def document(title: str, body: Markup) -> str:
    """The whole page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body.text}\n</main>\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> Markup:
    """A heading."""
    return Markup(f"<h{level}>{html.escape(text)}</h{level}>")


def paragraph(content: Content, style: str = "") -> Markup:
    """A paragraph; `style` is a class of the style sheet."""
    return Markup(f'<p class="{style}">{escaped(content)}</p>' if style else f"<p>{escaped(content)}</p>")


def photo(picture: Picture, alt: str) -> Markup:
    """A photograph, as JPEG of quality 88; its file goes into the page."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return _image("image/jpeg", buffer.getvalue(), alt, "")


def drawing(picture: Picture, alt: str, enlarge: bool = False) -> Markup:
    """A picture that must not be smeared, as PNG; `enlarge` keeps the cells of a coarse grid visible as squares."""
    return _image("image/png", png_bytes(np.ascontiguousarray(picture)), alt, "pixelated" if enlarge else "")


def _image(kind: str, content: bytes, alt: str, style: str) -> Markup:
    text = base64.b64encode(content).decode("ascii")
    return Markup(f'<img class="{style}" alt="{html.escape(alt)}" src="data:{kind};base64,{text}">')


def figure(image: Markup, name: str, detail: str = "") -> Markup:
    """A picture with its caption: what it is, and a word on it."""
    caption = f"<b>{html.escape(name)}</b> {html.escape(detail)}".strip()
    return Markup(f"<figure>{image.text}<figcaption>{caption}</figcaption></figure>")


def row(figures: Sequence[Markup], columns: int) -> Markup:
    """Figures side by side, 2 to 4 of them in a line."""
    inside = "\n".join(figure.text for figure in figures)
    return Markup(f'<div class="row of{columns}">\n{inside}\n</div>')


def table(headings: Sequence[str], rows: Iterable[Sequence[Content]], styles: Sequence[str] = ()) -> Markup:
    """A table; `styles` gives a class for each row, for as many as it has."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in headings)
    body = []
    for n, cells in enumerate(rows):
        style = f' class="{styles[n]}"' if n < len(styles) and styles[n] else ""
        body.append(f"<tr{style}>{''.join(_cell(cell) for cell in cells)}</tr>")
    return Markup(
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(body)}\n</tbody></table></div>'
    )


def facts(rows: Iterable[tuple[str, str]]) -> Markup:
    """A table of names and what they are, in words."""
    body = "".join(f'<tr><td>{html.escape(a)}</td><td class="words">{html.escape(b)}</td></tr>' for a, b in rows)
    return Markup(f'<div class="scroll"><table><tbody>{body}</tbody></table></div>')


def flattened(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names with dots and values as words, of settings within settings."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += flattened(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", "–" if value is None else str(value)))
    return found


def folded(summary: str, content: Markup) -> Markup:
    """Content that is opened by a click."""
    return Markup(f"<details><summary>{html.escape(summary)}</summary>\n{content.text}\n</details>")


def _cell(content: Content) -> str:
    if isinstance(content, Markup) and content.text.startswith("<td"):
        return content.text
    return f"<td>{escaped(content)}</td>"


def write_page(path: Path, text: str) -> None:
    """Write atomically: a browser never sees half a page."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
