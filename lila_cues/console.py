"""What both command lines share: where messages go, progress bars, and how a command ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

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
EXIT_INTERRUPTED = 130
INTERRUPTED = "interrupted; completed work is kept, and the same command resumes it (lila-train run: with --resume)"


def run(app: typer.Typer) -> None:
    """Run a command line; a user's or the system's error is one sentence and an exit status, not a traceback.

    INFO messages of our packages' loggers go to stderr. Typer turns Ctrl-C into its exit status and prints nothing.
    """
    _show_log_messages()
    try:
        app()
    except LilaError as error:
        _fail(str(error), EXIT_BAD_INPUT)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), EXIT_SYSTEM)
    except KeyboardInterrupt:
        _end_interrupted()
    except SystemExit as ended:
        if ended.code == EXIT_INTERRUPTED:
            _end_interrupted()
        raise


def _fail(message: str, status: int) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(message)}")
    sys.exit(status)


def _end_interrupted() -> NoReturn:
    err.print(INTERRUPTED)
    sys.exit(EXIT_INTERRUPTED)


def _show_log_messages() -> None:
    for package in ("stores", "lila_cues", "lila_train"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
            logger.addHandler(_ConsoleHandler())


class _ConsoleHandler(logging.Handler):
    """Prints log messages above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(record.getMessage(), markup=False)


@contextmanager
def progress(unit: str) -> Iterator[bars.Progress]:
    """Show a bar with the count, the rate in `unit` per second and the time left."""
    start = (bars.SpinnerColumn(), bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    with bars.Progress(*start, _Rate(unit), bars.TimeRemainingColumn(), console=err, transient=False) as bar:
        yield bar


class _Rate(bars.ProgressColumn):
    """Units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: bars.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} {self.unit}/s", style="progress.data.speed")
