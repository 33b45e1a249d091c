"""The one table of a run of benchmarks: figures beside their bars, under the date, machine, commit and command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from lila_cues.console import out
from lila_cues.devices import usable_cores
from tests.benchmarks.figures import Figure, Quantity

State = Literal["done", "failed", "not run"]
Verdict = Literal["met", "missed", "no bar", "not measured", "failed", "not run"]
HEADS = ("benchmark", "figure", "settings", "required", "found", "")
WIDTH = 200  # of the table, in characters, where it is not printed to a terminal
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Circumstances:
    """Under which the figures were measured."""

    date: str
    machine: str
    commit: str
    command: str

    @staticmethod
    def here(device: str, command: str) -> Circumstances:
        """Of this moment, machine and working tree."""
        return Circumstances(datetime.now().astimezone().isoformat(" ", "minutes"), machine(device), commit(), command)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the run: how it ended, in how many seconds, what it declares and what it handed back."""

    name: str
    state: State
    declared: tuple[Quantity, ...]
    found: tuple[Figure, ...] = ()
    seconds: float | None = None

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Benchmark:
        """From what `dataclasses.asdict` made of one."""
        declared = tuple(Quantity.from_dict(each) for each in stored["declared"])
        found = tuple(Figure.from_dict(each) for each in stored["found"])
        return Benchmark(stored["name"], stored["state"], declared, found, stored["seconds"])

    def rows(self) -> list[Row]:
        """A row for each figure, and one for each declared quantity of which there is none."""
        rows: list[Row] = []
        for quantity in self.declared:
            figures = [figure for figure in self.found if figure.quantity.name == quantity.name]
            if self.state == "done" and figures:
                rows += [Row(self.name, figure, verdict(figure)) for figure in figures]
            else:
                state: Verdict = "not measured" if self.state == "done" else self.state
                rows.append(Row(self.name, quantity.figure(None), state))
        return rows


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    benchmark: str
    figure: Figure
    verdict: Verdict

    def cells(self) -> tuple[str, ...]:
        """As HEADS has them; what was not measured has no number."""
        figure, bar = self.figure, self.figure.quantity.bar
        required = f"{bar.relation} {shown(bar.value, figure.quantity.unit)}" if bar else ""
        value = "–" if figure.value is None else shown(figure.value, figure.quantity.unit)
        found = f"{value} ({figure.note})" if figure.note else value
        return self.benchmark, figure.quantity.name, figure.settings, required, found, self.verdict


@dataclass(frozen=True)
class Report:
    """All of a run."""

    circumstances: Circumstances
    benchmarks: tuple[Benchmark, ...]

    def to_json(self) -> str:
        """All that `from_json` needs."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Report:
        """What `to_json` made."""
        stored = json.loads(text)
        benchmarks = tuple(Benchmark.from_dict(each) for each in stored["benchmarks"])
        return Report(Circumstances(**stored["circumstances"]), benchmarks)

    def rows(self) -> list[Row]:
        """Of all benchmarks, in their order."""
        return [row for benchmark in self.benchmarks for row in benchmark.rows()]

    def lines(self) -> list[str]:
        """What stands above the table."""
        told = asdict(self.circumstances)
        counts = Counter(row.verdict for row in self.rows() if row.figure.quantity.bar)
        bars = ", ".join(f"{counts[verdict]} {verdict}" for verdict in counts)
        took = ", ".join(f"{each.name} {each.seconds:.0f}" for each in self.benchmarks if each.seconds is not None)
        return [*(f"{name}: {value}" for name, value in told.items()), f"bars: {bars}", f"seconds: {took or 'none'}"]

    def markdown(self) -> str:
        """As README carries it."""
        rows = [HEADS, tuple("---:" if head == "found" else "---" for head in HEADS)]
        rows += [row.cells() for row in self.rows()]
        table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
        return "\n".join(f"- {line}" for line in self.lines()) + f"\n\n{table}\n"

    def show(self) -> None:
        """Print the table."""
        out.print("\n".join(self.lines()), markup=False)
        show(self.rows())

    def write(self, path: Path) -> None:
        """The table as Markdown, and beside it all of it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.markdown())
        path.with_suffix(".json").write_text(self.to_json())


def show(rows: Sequence[Row]) -> None:
    """Print them; into a file, with a line for each."""
    colors = {"met": "green", "missed": "red", "failed": "red"}
    table = Table()
    for head in HEADS:
        table.add_column(head, justify="right" if head == "found" else "left", overflow="fold")
    for row in rows:
        table.add_row(*row.cells()[:-1], f"[{colors.get(row.verdict, 'dim')}]{row.verdict}[/]")
    Console(width=None if out.is_terminal else WIDTH).print(table)


def verdict(figure: Figure) -> Verdict:
    """Of a figure whose benchmark ended well."""
    if figure.value is None:
        return "not measured"
    if figure.quantity.bar is None:
        return "no bar"
    return "met" if figure.quantity.bar.met_by(figure.value) else "missed"


def shown(value: float, unit: str) -> str:
    """At least three digits."""
    size = abs(value)
    number = f"{value:,.0f}" if size >= 100 else f"{value:.3g}" if size >= 1e-3 or size == 0 else f"{value:.1e}"
    return f"{number} {unit}".rstrip()


def machine(device: str) -> str:
    """The processor, its cores and those that are ours, threads, the device, memory, versions, and how busy it is."""
    import torch

    model = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        named = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = named[0] if named else model
    threads = f"{torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else "1 thread"
    gpu = "" if device == "cpu" else f"; {torch.cuda.get_device_name(device)}"
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    cores = f"{os.cpu_count()} cores ({usable_cores()} usable)"
    return f"{model}, {cores}, {threads}{gpu}; {versions}; load at the start {os.getloadavg()[0]:.1f}"


def commit() -> str:
    """Of the working tree, and whether it was changed since."""
    asked = ["git", "describe", "--always", "--dirty=, with changes", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
