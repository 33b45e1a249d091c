"""Pieces of a self-contained HTML page: pictures inside as base64, no script, nothing fetched.

The look of every page: one style sheet, light or dark as the reader's system has it, nothing fetched.
"""

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

from lila_cues.viz.pictures import Picture, png_bytes
from stores.atomic import atomic_path

CSS = """
:root {
  --ink: #1c1e21; --soft: #5d646d; --faint: #8d949d; --line: #e1e4e8; --paper: #fdfdfc; --panel: #f4f5f4;
  --accent: #b3431e; --second: #2f6690; --third: #6a8d3f; --gain: #2c7a4b; --loss: #b3431e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e7e8; --soft: #a4abb3; --faint: #7b838c; --line: #33383e; --paper: #16181a; --panel: #1f2225;
    --accent: #ec8a5f; --second: #7fb2dc; --third: #a9c97f; --gain: #6cc391; --loss: #ec8a5f;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 56px 24px 96px; }
h1 { font-size: 2.1rem; line-height: 1.15; letter-spacing: -0.02em; margin: 12px 0 12px; text-wrap: balance; }
h2 { font-size: 1.3rem; letter-spacing: -0.01em; margin: 64px 0 6px; padding-top: 20px;
     border-top: 1px solid var(--line); }
h3 { font-size: 0.95rem; margin: 28px 0 8px; } h4 { font-size: 0.86rem; margin: 18px 0 6px; color: var(--soft); }
p { max-width: 44em; margin: 8px 0 16px; }
.lead { font-size: 1.08rem; color: var(--soft); }
.badge { display: inline-block; padding: 3px 10px; border: 1px solid var(--accent); border-radius: 999px;
         color: var(--accent); font-size: 0.78rem; letter-spacing: 0.02em; }
.headline { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1px; margin: 32px 0 8px;
            background: var(--line); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.headline > div { background: var(--panel); padding: 18px 22px; }
.headline .value { font-size: 2.3rem; font-weight: 600; letter-spacing: -0.03em; line-height: 1.1;
                   font-variant-numeric: tabular-nums; }
.headline .label { color: var(--soft); font-size: 0.86rem; }
.gain { color: var(--gain); } .loss { color: var(--loss); } .soft { color: var(--soft); }
.note { color: var(--soft); font-size: 0.88rem; }
.row { display: grid; gap: 12px; margin: 10px 0 14px; align-items: start; }
.of2 { grid-template-columns: repeat(2, 1fr); } .of3 { grid-template-columns: repeat(3, 1fr); }
.of4 { grid-template-columns: repeat(4, 1fr); }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 5px; background: var(--panel); }
figcaption { font-size: 0.82rem; line-height: 1.4; color: var(--soft); padding-top: 5px; }
figcaption b { color: var(--ink); font-weight: 600; }
.pixelated { image-rendering: pixelated; }
.legend { display: flex; gap: 16px; align-items: center; margin: 4px 0 18px; }
.legend img { width: 72px; height: 72px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; margin: 12px 0; }
th, td { text-align: right; padding: 6px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 0.82rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.words, th.words { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td.small { min-width: 6.5em; overflow-wrap: break-word; font-size: 0.82rem; line-height: 1.35; }
tr.best td { font-weight: 600; }
tr.published td { color: var(--soft); font-style: italic; }
td.bar { width: 30%; min-width: 140px; }
td.bar span { display: block; height: 7px; border-radius: 4px; margin: 2px 0; }
td.bar .under { background: var(--faint); } td.bar .over { background: var(--second); }
.chart { width: 100%; height: auto; margin: 8px 0; }
.chart text { fill: var(--soft); font-size: 12px; font-family: inherit; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .raw { fill: none; stroke-width: 1; opacity: 0.25; } .chart .mean { fill: none; stroke-width: 2.2; }
.chart .c0 { stroke: var(--accent); } .chart .c1 { stroke: var(--second); } .chart .c2 { stroke: var(--third); }
.chart .f0 { fill: var(--accent); } .chart .f1 { fill: var(--second); } .chart .f2 { fill: var(--third); }
details summary { cursor: pointer; color: var(--second); margin: 12px 0 4px; }
footer { margin-top: 72px; color: var(--faint); font-size: 0.82rem; }
@media (max-width: 720px) {
  main { padding-top: 28px; }
  .of4 { grid-template-columns: 1fr 1fr; }
  .headline > div { padding: 12px; } .headline .value { font-size: 1.5rem; }
}
@media print { details > * { display: block; } main { max-width: none; } }
"""


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
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
