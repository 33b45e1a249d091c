"""The table of `make bench`: what is met, missed, failed or not run; every benchmark says what it measures."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest

from tests.benchmarks import figures, inference
from tests.benchmarks.__main__ import FOLDER, declared, names, place, run
from tests.benchmarks.figures import Bar, Figure, Quantity, Relation
from tests.benchmarks.table import Benchmark, Circumstances, Report, State, Verdict, shown, verdict

SPEED = Quantity("speed", "×", Bar("at least", 3))
MEMORY = Quantity("memory", "GB", Bar("below", 1))
SIZE = Quantity("size", "MB")
HERE = Circumstances("2020-02-02 12:00+00:00", "a machine", "0123456789ab", "python -m tests.benchmarks")


def report(*benchmarks: Benchmark) -> Report:
    return Report(HERE, benchmarks)


@pytest.mark.parametrize(
    ("relation", "value", "expected"),
    [
        ("at least", 2.9, "missed"),
        ("at least", 3, "met"),
        ("above", 3, "missed"),
        ("above", 3.1, "met"),
        ("at most", 3, "met"),
        ("at most", 3.1, "missed"),
        ("below", 3, "missed"),
        ("below", 2.9, "met"),
    ],
)
def test_a_bar_is_met_or_missed(relation: Relation, value: float, expected: Verdict) -> None:
    assert verdict(Quantity("x", "s", Bar(relation, 3)).figure(value)) == expected


def test_a_figure_without_a_bar_or_a_value_is_neither() -> None:
    assert verdict(SIZE.figure(3)) == "no bar"
    assert verdict(SPEED.figure(None)) == "not measured"


def test_a_figure_is_a_number() -> None:
    with pytest.raises(AssertionError, match="speed: nan is no measurement"):
        SPEED.figure(float("nan"))


def test_each_row_says_what_is_required_and_what_was_found() -> None:
    found = (SPEED.figure(4.26, "at 60 cells"), SPEED.figure(2.5, "at 120 cells", "while busy"), SIZE.figure(12345))
    rows = report(Benchmark("knn", "done", (SPEED, MEMORY, SIZE), found, 12.3)).rows()
    assert [row.cells() for row in rows] == [
        ("knn", "speed", "at 60 cells", "at least 3 ×", "4.26 ×", "met"),
        ("knn", "speed", "at 120 cells", "at least 3 ×", "2.5 × (while busy)", "missed"),
        ("knn", "memory", "", "below 1 GB", "–", "not measured"),
        ("knn", "size", "", "", "12,345 MB", "no bar"),
    ]


@pytest.mark.parametrize("state", ["failed", "not run"])
def test_what_failed_or_was_not_run_has_no_number(state: State) -> None:
    rows = report(Benchmark("knn", state, (SPEED, SIZE))).rows()
    assert [(row.figure.value, row.verdict, row.cells()[4]) for row in rows] == [(None, state, "–")] * 2


def test_markdown_carries_the_circumstances_and_every_row() -> None:
    whole = report(
        Benchmark("knn", "done", (SPEED,), (SPEED.figure(4, "a|b"),), 61.2), Benchmark("pamr", "failed", (MEMORY,))
    )
    lines = whole.markdown().splitlines()
    assert lines[:6] == [
        "- date: 2020-02-02 12:00+00:00",
        "- machine: a machine",
        "- commit: 0123456789ab",
        "- command: python -m tests.benchmarks",
        "- bars: 1 met, 1 failed",
        "- seconds: knn 61",
    ]
    assert lines[7:] == [
        "| benchmark | figure | settings | required | found |  |",
        "| --- | --- | --- | --- | ---: | --- |",
        r"| knn | speed | a\|b | at least 3 × | 4 × | met |",
        "| pamr | memory |  | below 1 GB | – | failed |",
    ]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    found = (SPEED.figure(4.123456789, "here", "note"), SIZE.figure(None))
    whole = report(Benchmark("knn", "done", (SPEED, SIZE), found, 3.5), Benchmark("pamr", "not run", (MEMORY,)))
    whole.write(tmp_path / "bench" / "table.md")
    assert (tmp_path / "bench" / "table.md").read_text() == whole.markdown()
    assert Report.from_json((tmp_path / "bench" / "table.json").read_text()) == whole


def test_what_a_benchmark_hands_back_is_read_back(tmp_path: Path) -> None:
    found = [SPEED.figure(4.5), SIZE.figure(None, "here", "too large")]
    figures.hand_back(tmp_path / "figures.json", (SPEED, SIZE), found)
    assert figures.read(tmp_path / "figures.json") == found


def test_without_a_file_the_figures_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    figures.hand_back(None, (SPEED,), [SPEED.figure(2.5)])
    printed = capsys.readouterr().out
    assert "at least 3 ×" in printed
    assert "missed" in printed


def test_only_what_was_declared_is_handed_back(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not declared in FIGURES: size"):
        figures.hand_back(tmp_path / "figures.json", (SPEED,), [SIZE.figure(1)])


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0002, "2.0e-04"), (0, "0"), (0.1667, "0.167"), (12.34, "12.3"), (6374, "6,374")]
)
def test_a_number_keeps_three_digits(value: float, expected: str) -> None:
    assert shown(value, "") == expected


@pytest.mark.parametrize("name", names())
def test_every_benchmark_declares_its_figures_and_hands_them_back(name: str) -> None:
    quantities = import_module(f"tests.benchmarks.{name}").FIGURES
    text = (FOLDER / f"{name}.py").read_text()
    assert len({quantity.name for quantity in quantities}) == len(quantities) > 0, (
        "one name for two quantities, or none"
    )
    assert "figures.parser(__doc__)" in text
    assert "figures.hand_back(" in text


def test_no_two_benchmarks_measure_the_same() -> None:
    called = [quantity.name for quantities in declared().values() for quantity in quantities]
    assert len(set(called)) == len(called)


def test_a_benchmark_that_does_not_end_well_has_failed() -> None:
    ended = run("there_is_none_of_this_name", (SPEED,))
    assert (ended.state, ended.found) == ("failed", ())
    assert ended.seconds is not None


def test_a_benchmark_that_hands_nothing_back_has_failed() -> None:
    assert run("figures", (SPEED,)).state == "failed"


def fastest(**others: inference.Measured) -> Figure:
    """The judgement where LILA takes 2 s."""
    found = {(name, 224): measured for name, measured in others.items()}
    return inference._fastest({("LILA", 224): inference.Measured(2.0, 10.0), **found}, 224)


def test_the_fastest_other_is_compared_with_lila() -> None:
    figure = fastest(anyup=inference.Measured(3.0, 1.0), jafar=inference.Measured(5.0, 1.0))
    assert (figure.value, figure.note) == (1.5, "anyup")


def test_one_that_was_ended_counts_with_the_time_it_had_taken() -> None:
    ended = inference.Measured(reason="more than 9 s", over=9.0)
    assert fastest(anyup=ended).value == 4.5
    assert fastest(anyup=ended).note == "anyup, ended after 9 s, so at least this"
    assert fastest(anyup=ended, jafar=inference.Measured(12.0, 1.0)).value == 4.5


def test_one_that_was_ended_too_early_shows_nothing() -> None:
    figure = fastest(anyup=inference.Measured(reason="more than 1 s", over=1.0))
    assert (figure.value, figure.note) == (None, "anyup: more than 1 s")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [([], "table.md"), (["knn", "pamr"], "knn-pamr.md")],
)
def test_the_table_of_some_does_not_replace_that_of_all(chosen: list[str], expected: str) -> None:
    assert place(Namespace(names=chosen, out=None)) == Path("runs/bench") / expected
    assert place(Namespace(names=chosen, out=Path("here.md"))) == Path("here.md")
