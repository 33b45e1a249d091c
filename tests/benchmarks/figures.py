"""What a benchmark hands back: figures, each with what is required of it."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Relation = Literal["at least", "at most", "above", "below"]


@dataclass(frozen=True)
class Bar:
    """The value required of a figure, in the figure's unit."""

    relation: Relation
    value: float

    def met_by(self, value: float) -> bool:
        """Whether that value is good enough."""
        return {
            "at least": value >= self.value,
            "at most": value <= self.value,
            "above": value > self.value,
            "below": value < self.value,
        }[self.relation]


@dataclass(frozen=True)
class Quantity:
    """What is measured, in which unit ("×" for a ratio), and what is required of it where something is."""

    name: str
    unit: str
    bar: Bar | None = None

    def figure(self, value: float | None, settings: str = "", note: str = "") -> Figure:
        """A measurement of it under `settings`."""
        return Figure(self, value, settings, note)

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Quantity:
        """From what `dataclasses.asdict` made of one."""
        bar = stored["bar"]
        return Quantity(stored["name"], stored["unit"], Bar(bar["relation"], bar["value"]) if bar else None)


@dataclass(frozen=True)
class Figure:
    """A value of a quantity, None where it could not be measured; a note says why, or how far it can be trusted."""

    quantity: Quantity
    value: float | None
    settings: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        assert self.value is None or math.isfinite(self.value), f"{self.quantity.name}: {self.value} is no measurement"

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Figure:
        """From what `dataclasses.asdict` made of one."""
        return Figure(Quantity.from_dict(stored["quantity"]), stored["value"], stored["settings"], stored["note"])


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Of a benchmark's options: what all of them take."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--figures", type=Path, metavar="FILE", help="write the figures there, as JSON; printed otherwise"
    )
    return made


def hand_back(path: Path | None, declared: Sequence[Quantity], found: Sequence[Figure]) -> None:
    """Write the figures as JSON, or print them where nobody asked for a file. They are of what was declared."""
    strangers = {figure.quantity.name for figure in found} - {quantity.name for quantity in declared}
    assert not strangers, f"not declared in FIGURES: {', '.join(sorted(strangers))}"
    if path is None:
        from tests.benchmarks import table

        table.show([table.Row("", figure, table.verdict(figure)) for figure in found])
    else:
        path.write_text(json.dumps([asdict(figure) for figure in found], indent=1, ensure_ascii=False))


def read(path: Path) -> list[Figure]:
    """What `hand_back` wrote."""
    return [Figure.from_dict(stored) for stored in json.loads(path.read_text())]
