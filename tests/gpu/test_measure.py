"""The parts of `make bench-gpu`, at tiny sizes on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.figures import Figure, Quantity
from tests.gpu import measure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As in the command, that of all parts: later ones read the store of `build`."""
    return tmp_path_factory.mktemp("measure")


@pytest.mark.parametrize("part", measure.PARTS)
def test_a_part_runs_on_a_cpu(part: str, folder: Path) -> None:
    figures = list(measure.PARTS[part][1](measure.Bench("cpu", True, folder)))
    assert len({(figure.quantity.name, figure.settings) for figure in figures}) == len(figures) > 0
    assert all(figure.value is not None for figure in figures)


def test_all_parts_take_nine_minutes_at_most() -> None:
    assert sum(limit for limit, _ in measure.PARTS.values()) <= 9 * 60


def test_a_part_that_fails_prints_its_figures_and_its_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(bench: measure.Bench) -> Iterator[Figure]:
        yield Quantity("length", "m").figure(2, "here")
        raise RuntimeError("no more")

    monkeypatch.setitem(measure.PARTS, "broken", (1, broken))
    assert not measure.run_here("broken", measure.Bench("cpu", True, tmp_path))
    assert not measure.run_apart("broken", [], 0.01)
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == [
        {"part": "broken", "name": "length", "value": 2, "unit": "m", "settings": "here"},
        {"part": "broken", "error": "RuntimeError: no more"},
        {"part": "broken", "error": "ended at its limit of 0.01 s"},
    ]


def test_a_build_and_the_command_need_no_video_library(tmp_path: Path) -> None:
    script = "import sys; sys.modules['av'] = None; from tests.gpu import measure; measure.main()"
    command = [sys.executable, "-c", script, "build", "--device", "cpu", "--tiny", "--folder", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {"build"} == {line["part"] for line in lines}
    assert all(line["value"] is not None for line in lines)


@pytest.mark.gpu
def test_passes_that_do_not_fit_a_gpu_are_halved(tmp_path: Path) -> None:
    remaining = [figure.value for figure in measure.oom(measure.Bench("cuda", False, tmp_path))]
    assert all(value in (1, 2) for value in remaining), remaining
