"""Self-contained HTML pages from the templates in `templates/`: nothing is fetched, and text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from lila_cues.viz.pictures import Picture
from stores.atomic import atomic_write
from stores.errors import LilaError

GENERATOR = "lila-pixels"  # the `generator` of a page's head

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("lila_cues.viz"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Figure:
    """A picture with its caption, a name in bold and a detail."""

    picture: Picture
    name: str
    detail: str = ""
    kind: str = "png"  # lossless, or "jpeg" for photos
    enlarge: bool = False  # keep the cells of a coarse grid visible as squares


@dataclass(frozen=True)
class Row:
    """Figures side by side under a title, which may be empty; None leaves a place free. 2 to 4 columns."""

    title: str
    figures: Sequence[Figure | None]
    columns: int = 4


@dataclass(frozen=True)
class Gallery:
    """A titled section of a page: an explanation and rows of figures."""

    title: str
    text: str
    rows: Sequence[Row] = ()


def render(template: str, out: Path, **content: Any) -> None:
    """Write a page atomically. A template fails if it uses a name that `content` lacks."""
    page = ENVIRONMENT.get_template(template).render(content, generator=GENERATOR)
    require_own(out)
    atomic_write(page.encode(errors="backslashreplace"), out)  # names of files may hold bytes that are not UTF-8


def require_own(page: Path) -> None:
    """Raise LilaError where a page would replace a folder, or a file that is no page of this program."""
    if page.is_file():
        with page.open("rb") as file:
            if f'name="generator" content="{GENERATOR}"'.encode() in file.read(1000):
                return
    if page.exists():
        found = "a folder" if page.is_dir() else "a file of something else"
        raise LilaError(
            f"expected a page of this program, or nothing, at {page}, found {found}; pass another --out, or move it "
            "away"
        )


def data_url(image: Picture | bytes, kind: str = "png") -> str:
    """Return a data URL of a picture as "png" or as "jpeg" of quality 88, or of the bytes of an SVG file."""
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, kind, **({"quality": 88} if kind == "jpeg" else {}))
        image = buffer.getvalue()
    return f"data:image/{'svg+xml' if kind == 'svg' else kind};base64,{base64.b64encode(image).decode('ascii')}"


ENVIRONMENT.filters["data_url"] = data_url
