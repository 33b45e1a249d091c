"""Messages of the command lines."""

from __future__ import annotations

import logging
import os
import signal
import time
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


@pytest.mark.usefixtures("stderr")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_its_status_and_one_sentence(
    capsys: pytest.CaptureFixture[str], sent: signal.Signals, status: int
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    cleaned: list[bool] = []

    def command() -> None:
        try:
            os.kill(os.getpid(), sent)
            time.sleep(5)
        finally:
            if sent == signal.SIGTERM:  # a batch system repeats it
                os.kill(os.getpid(), sent)
            cleaned.append(True)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run(command) == status
    finally:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
    assert cleaned == [True]
    assert capsys.readouterr().err == f"{console.INTERRUPTED}\n"
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.usefixtures("stderr")
def test_ctrl_c_stays_ignored_in_the_background() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run(lambda: os.kill(os.getpid(), signal.SIGINT)) == 0
    finally:
        signal.signal(signal.SIGINT, previous)
