"""Messages of the command lines."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import typer

from lila_cues import console
from lila_cues.cli import messages
from stores.errors import LilaError


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print to the stderr that the test captures, for a command line without arguments."""
    monkeypatch.setattr("sys.argv", ["lila-cues"])
    monkeypatch.setattr(console, "err", console.PlainConsole(stderr=True, width=200))


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


ERRORS = (  # error, exit status, sentence
    (OSError(2, "No such file or directory", "clips[1].mp4"), 70, "No such file or directory: clips[1].mp4"),
    (PermissionError(13, "Permission denied", "a/b.png"), 2, "permission denied: a/b.png; change its permissions, or"),
    (LilaError("no video in o [full]\x1b[2J\n\udcff"), 2, r"no video in o [full]\x1b[2J\n\udcff"),
    (
        RuntimeError("[/] o"),
        70,
        "unexpected RuntimeError: [/] o; run the command again with --debug and report what it",
    ),
    (AssertionError(), 70, "unexpected AssertionError; run the command again with --debug"),
)


@pytest.mark.usefixtures("stderr")
@pytest.mark.parametrize(("error", "status", "sentence"), ERRORS)
def test_an_error_is_one_sentence_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, sentence: str
) -> None:
    def command() -> None:
        raise error

    assert run(command) == status
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {sentence}")
    assert printed.count("\n") == 1
    monkeypatch.setattr("sys.argv", ["lila-cues", "--debug"])
    assert run(command) == status
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):")


UNSAFE = "o [full] [/] :x: \x1b[2J \x07\u202e\udcff"
SHOWN = r"o [full] [/] :x: \x1b[2J \x07\u202e\udcff"


@pytest.mark.usefixtures("stderr")
def test_names_of_files_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    messages.note(UNSAFE)
    console.err.print(UNSAFE)
    console.err.print(console.bold(UNSAFE))
    table = console.Table(UNSAFE, title=UNSAFE)
    table.add_row(UNSAFE)
    console.err.print(table)
    with console.progress("frames") as bar:
        bar.advance(bar.add_task(UNSAFE, total=None))
    with console.progress("frames") as bar:
        bar.add_task("nothing to do", total=0)
    printed = capsys.readouterr().err
    assert printed.count(SHOWN) >= 7
    assert "nothing to do" not in printed
    assert not re.search("\x07|\u202e|\udcff", printed)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_characters_that_a_terminal_lacks_are_replaced(encoding: str) -> None:
    command = "import logging; from lila_cues import console; from lila_cues.cli import messages, app\n"
    command += r"app.command('say')(lambda: messages.note('\u2026 \xd7 \udcff')); console.run(app)"
    environment = {"PYTHONIOENCODING": encoding, "PATH": os.environ["PATH"]}  # no HOME
    ran = subprocess.run([sys.executable, "-c", command, "say"], capture_output=True, env=environment)
    assert (ran.returncode, ran.stdout) == (0, b""), ran.stderr
    shown = {"latin-1": r"\u2026 ×", "ascii": r"\u2026 \xd7", "utf-8": "… ×"}[encoding] + r" \udcff"
    assert ran.stderr.decode(encoding) == f"note: {shown}\n"


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


def test_progress_is_printed_in_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0)
    with console.progress("clips") as bar:
        line = bar.add_task("building", total=2000)
        bar.advance(line, 1500)
        monkeypatch.setattr(console, "LINE_SECONDS", 60)
        for _ in range(10):
            bar.advance(line)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("building: ")]
    assert len(lines) == 2
    assert re.fullmatch(r"building: 1,500 of 2,000 clips, \S+ clips/s(, about \S+ \w+ left)?", lines[0])


def test_the_rate_at_the_end_is_the_mean_of_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    with console.progress("steps") as bar:
        monkeypatch.setattr(bar, "get_time", lambda: now[-1])
        line = bar.add_task("train", total=30, completed=20, before=20)  # a resumed run
        for moment in (100.0, 199.9, 199.95, 200.0):
            now.append(moment)
            bar.advance(line, 2.5)
        (task,) = bar.tasks
        (rate,) = (column.render(task) for column in bar.columns if hasattr(column, "unit"))
    assert str(rate) == "0.05 steps/s"
