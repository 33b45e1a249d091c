"""The scores: what was gained, the table, and every sequence by itself."""

from __future__ import annotations

from lila_train.report.demo_inputs import DemoInputs
from lila_train.report.page import Markup, heading, joined, paragraph, table
from lila_train.report.wording import MISSING, NAMES, percent, signed

COLUMNS = ("J", "F", "JF", "J_recall", "J_decay", "F_recall", "F_decay")


def points(value: float | None, better: int = 1) -> Markup:
    """A difference in points, coloured by whether it is for the better: upwards, or with −1 downwards."""
    if value is None:
        return Markup(MISSING)
    style = "gain" if value * better > 0 else "loss"
    return Markup(f'<span class="{style}">{signed(100 * value)}</span>')


def difference(one: float | None, other: float | None) -> float | None:
    """`other` minus `one`, None if either is missing."""
    return None if one is None or other is None else other - one


def headline(inputs: DemoInputs) -> Markup:
    """The figures that matter: J&F of the encoder and of LILA in per cent, and their difference in points."""
    encoder, lila = (inputs.result["scores"][head]["JF"] for head in ("encoder", "lila"))
    cells = (
        (percent(encoder), "J&amp;F, frozen encoder"),
        (percent(lila), "J&amp;F, LILA"),
        (points(difference(encoder, lila)).text, "points gained"),
    )
    inside = "".join(
        f'<div><div class="value">{value}</div><div class="label">{label}</div></div>' for value, label in cells
    )
    return Markup(f'<div class="headline">{inside}</div>')


def section(inputs: DemoInputs) -> Markup:
    """The table of the set, and of its sequences."""
    result = inputs.result
    counts = ", ".join(f"{value} {name}" for name, value in result["counts"].items())
    derived = result["derived"]
    explanation = (
        f"Labels of the first frame are carried through the video by nearest neighbours in feature space: {counts}. "
        f"Protocol {result['protocol']}: a window of {result['settings']['window']}² cells on a grid of "
        f"{derived['grid_cells'][1]}×{derived['grid_cells'][0]} (radius {derived['radius_cells']} cells, "
        f"{derived['radius_native_px']:.0f} pixels of the video). The frozen encoder is scored by its own grid of "
        "tokens, LILA by its map of the pixels, in one run. Figures are per cent; decay is better when it is low."
    )
    return joined([heading("Video object segmentation"), paragraph(explanation), _whole(inputs), _sequences(inputs)])


def _whole(inputs: DemoInputs) -> Markup:
    scores = inputs.result["scores"]
    rows: list[list[str | Markup]] = [
        [NAMES.get(head, head), *(percent(figures[name]) for name in COLUMNS)] for head, figures in scores.items()
    ]
    if {"encoder", "lila"} <= set(scores):
        gains = [difference(scores["encoder"][name], scores["lila"][name]) for name in COLUMNS]
        better = [-1 if "decay" in name else 1 for name in COLUMNS]
        rows.append(["difference", *(points(gain, way) for gain, way in zip(gains, better, strict=True))])
    headings = ["", "J", "F", "J&F", "J recall", "J decay", "F recall", "F decay"]
    return table(headings, rows)


def _sequences(inputs: DemoInputs) -> Markup:
    rows: list[list[str | Markup]] = []
    for name in inputs.davis.names:
        encoder, lila = (inputs.davis.figures(head, name)["JF"] for head in ("encoder", "lila"))
        objects = len(inputs.davis.objects("lila", name))
        rows.append(
            [
                name,
                str(objects),
                percent(encoder),
                percent(lila),
                points(difference(encoder, lila)),
                _bars(encoder, lila),
            ]
        )
    return joined(
        [
            heading("Every held-out sequence", 3),
            table(["sequence", "objects", "encoder J&F", "LILA J&F", "points", ""], rows),
        ]
    )


def _bars(encoder: float | None, lila: float | None) -> Markup:
    under, over = (100 * (value or 0) for value in (encoder, lila))
    return Markup(
        f'<td class="bar"><span class="under" style="width:{under:.1f}%"></span>'
        f'<span class="over" style="width:{over:.1f}%"></span></td>'
    )
