"""Messages of the command lines."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import typer
from rich.console import Console

from lila_cues import console


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print to the stderr that the test captures, for a command line without arguments."""
    monkeypatch.setattr("sys.argv", ["lila-cues"])
    monkeypatch.setattr(console, "err", Console(stderr=True, highlight=False, width=200))


def run(command: Callable[[], None]) -> int:
    app = typer.Typer(add_completion=False)
    app.command()(command)
    with pytest.raises(SystemExit) as ended:
        console.run(app)
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("stderr")
def test_log_messages_of_the_packages_are_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        logging.getLogger("lila_cues.networks.hub").info("downloading %s", "model[s].safetensors")
        logging.getLogger("elsewhere").info("a library's own message")

    assert [run(command), run(command)] == [0, 0]
    assert capsys.readouterr().err == "downloading model[s].safetensors\n" * 2


@pytest.mark.usefixtures("stderr")
def test_an_error_is_one_sentence_with_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise OSError(2, "No such file or directory", "clips[1].mp4")

    assert run(command) == console.EXIT_SYSTEM
    assert capsys.readouterr().err == "error: No such file or directory: clips[1].mp4\n"
