"""What both command lines share: where messages go, progress bars, and how a command ends."""

from __future__ import annotations

import logging
import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from stores.errors import LilaError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

EXIT_BAD_INPUT = 2
EXIT_SYSTEM = 1
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
INTERRUPTED = "interrupted; completed work is kept, and the same command resumes it"


def run(app: typer.Typer) -> None:
    """Run a command line; a user's or the system's error is one sentence and an exit status, not a traceback.

    INFO messages of our packages' loggers go to stderr. Ctrl-C and SIGTERM raise SystemExit in the command, not
    KeyboardInterrupt, for which typer has a message and an exit status of its own.
    """
    for package in ("stores", "lila_cues", "lila_train"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
            logger.addHandler(_ConsoleHandler())
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in previous.items():
            if handler is not signal.SIG_IGN:  # as in a shell's background
                signal.signal(number, _interrupt)
        app()
    except LilaError as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), EXIT_SYSTEM)
    except KeyboardInterrupt:
        err.print(INTERRUPTED)
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as ended:
        if ended.code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            err.print(INTERRUPTED)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _show_version(wanted: bool | None) -> None:
    if wanted:
        out.print(f"lila-pixels {version('lila-pixels')}")
        raise typer.Exit


def common_options(
    _version: Annotated[
        bool | None, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = None,
) -> None:
    """Options of both command lines, before the command."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_IGN)  # a batch system may send it twice; the work done is published meanwhile
    raise SystemExit(128 + number)


def _fail(message: str, status: int) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(message)}")
    sys.exit(status)


class _ConsoleHandler(logging.Handler):
    """Prints log messages above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(record.getMessage(), markup=False)


def progress(unit: str) -> bars.Progress:
    """Return the context of a bar with the count, the rate in `unit` per second and the time left."""
    start = (bars.SpinnerColumn(), bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    return bars.Progress(*start, _Rate(unit), bars.TimeRemainingColumn(), console=err)


class _Rate(bars.ProgressColumn):
    """Units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: bars.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} {self.unit}/s", style="progress.data.speed")
