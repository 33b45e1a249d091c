"""Run every benchmark of this folder, or those that are named, each in a process of its own; then print one table.

python -m tests.benchmarks [NAME…] [--out runs/bench/table.md]

The table has the required value beside each figure. It is written to `--out`, and as JSON beside that, after each
benchmark.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lila_cues.console import out
from tests.benchmarks import figures
from tests.benchmarks.figures import Quantity
from tests.benchmarks.table import Benchmark, Circumstances, Report

FOLDER = Path(__file__).parent
RUNS = Path("runs/bench")


def names() -> list[str]:
    """Modules that have a `main`."""
    modules = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__main__")
    return [path.stem for path in modules if "\ndef main(" in path.read_text()]


def declared() -> Mapping[str, Sequence[Quantity]]:
    """What each benchmark measures."""
    return {name: importlib.import_module(f"{__package__}.{name}").FIGURES for name in names()}


def run(name: str, quantities: Sequence[Quantity]) -> Benchmark:
    """One benchmark in a process of its own; one that ends badly or hands nothing back has failed."""
    with tempfile.TemporaryDirectory() as folder:
        handed = Path(folder) / "figures.json"
        command = [sys.executable, "-m", f"{__package__}.{name}", "--figures", str(handed)]
        began = time.perf_counter()
        status = subprocess.run(command, check=False).returncode
        seconds = time.perf_counter() - began
        if status or not handed.exists():
            return Benchmark(name, "failed", tuple(quantities), (), seconds)
        return Benchmark(name, "done", tuple(quantities), tuple(figures.read(handed)), seconds)


def _options(known: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--out", type=Path, help=f"default: {RUNS}/table.md, with names those")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    return options


def place(options: argparse.Namespace) -> Path:
    """Where the table goes; one of a few benchmarks does not replace that of all."""
    return options.out or RUNS / f"{'-'.join(options.names) or 'table'}.md"


def main() -> None:
    options, known = _options(names()), declared()
    chosen = options.names or list(known)
    begun = tuple(Benchmark(name, "not run", tuple(known[name])) for name in chosen)
    command = shlex.join(["python", "-m", "tests.benchmarks", *sys.argv[1:]])
    report, written = Report(Circumstances.here("cpu", command), begun), place(options)
    for name in chosen:
        out.print(f"\n── {name} ──")
        ended = run(name, known[name])
        report = replace(report, benchmarks=tuple(ended if b.name == name else b for b in report.benchmarks))
        report.write(written)
    report.show()
    out.print(f"written to {written} and {written.with_suffix('.json')}")
    failed = [benchmark.name for benchmark in report.benchmarks if benchmark.state == "failed"]
    if failed:
        sys.exit(f"error: {', '.join(failed)} did not end well; see above")


if __name__ == "__main__":
    main()
