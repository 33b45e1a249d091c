"""`lila-cues inspect`: the arrays of a store, statistics of its cues, and a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lila_cues.commands.store import Store

if TYPE_CHECKING:
    from stores.inspection import Inspection, Table
    from stores.store import CueStore

Clip = Annotated[str | None, typer.Option(help="Name or number of the clip to show; some at random if not given.")]
Pair = Annotated[
    int | None, typer.Option(min=0, help="Which of its pairs; all of them (of one clip), or one at random.")
]
Count = Annotated[int, typer.Option(min=1, help="How many clips to show at random.")]
Sample = Annotated[int, typer.Option(min=1, help="Over how many clips statistics are taken.")]
ShownSeed = Annotated[int, typer.Option(min=0, help="Draws the clips.")]
SheetFolder = Annotated[Path, typer.Option(help="Folder for sheet.png and index.html.")]


def inspect(
    store: Store,
    clip: Clip = None,
    pair: Pair = None,
    count: Count = 4,
    sample: Sample = 16,
    seed: ShownSeed = 0,
    out: SheetFolder = Path("inspection"),
) -> None:
    """Show what is in a store: arrays, statistics per cue, and pictures of some pairs as PNG and HTML."""
    import numpy as np

    import stores
    from stores import console, pictures
    from stores.contact_sheet import row, sheet
    from stores.inspection import inspect as look_into
    from stores.inspection import page
    from stores.verify import sample as draw

    opened = stores.open(store)
    random = np.random.Generator(np.random.Philox(key=seed))
    rows = [row(opened, *place) for place in _places(opened, clip, pair, count, random)]
    found = look_into(opened, draw(opened, sample, seed), rows)
    out.mkdir(parents=True, exist_ok=True)
    pictures.write_png(out / "sheet.png", sheet(rows))
    (out / "index.html").write_text(page(found))
    _print(found)
    console.out.print(f"pictures: {out / 'sheet.png'} and {out / 'index.html'}")


def _places(store: CueStore, clip: str | None, pair: int | None, count: int, random: object) -> list[tuple[int, int]]:
    """(clip, pair) of each row."""
    import numpy as np

    from stores.errors import StoreError

    assert isinstance(random, np.random.Generator)
    pairs = store.spec.geometry.pairs
    if pair is not None and pair >= pairs:
        raise StoreError(f"pair {pair} is not among the {pairs} that a clip of {store.path} has; take 0 to {pairs - 1}")
    complete = store.complete_clips()
    if not len(complete):
        raise StoreError(f"no clip of {store.path} is complete yet; run `lila-cues build` first")
    if clip is not None:
        return [(find_clip(store, clip), each) for each in ([pair] if pair is not None else range(pairs))]
    clips = random.choice(complete, min(count, len(complete)), replace=False)
    return [(int(each), int(random.integers(pairs)) if pair is None else pair) for each in clips]


def find_clip(store: CueStore, clip: str) -> int:
    """The number of a clip that is given by its name or number."""
    from stores.errors import StoreError

    number = store.clips.find(clip)
    if number is None and clip.isdigit() and int(clip) < store.n_clips:
        number = int(clip)
    if number is None:
        raise StoreError(
            f"{store.path} has no clip {clip!r}; give a number from 0 to {store.n_clips - 1} or a name such as "
            f"{store.clip_id(0)!r}"
        )
    return number


def _print(found: Inspection) -> None:
    from stores.console import out

    out.print(f"{found.path}\n{found.summary}", markup=False)
    for table in (found.arrays, found.numbers):
        out.print()
        for line in columns(table):
            out.print(line, markup=False)


def columns(table: Table) -> Iterator[str]:
    """A table as lines of text, in columns as wide as their widest entry: no terminal cuts them."""
    heads, lines = table
    widths = [max(len(line[place]) for line in (heads, *lines)) for place in range(len(heads))]
    for line in (heads, *lines):
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        yield "  ".join(cells).rstrip()
