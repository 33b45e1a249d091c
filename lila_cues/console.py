"""Shared by both command lines: output streams, progress bars, exit statuses."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from importlib.metadata import version
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lila_cues.inputs import MAX_PIXELS_VARIABLE
from stores.backends import RETRY_SECONDS, RETRY_VARIABLE
from stores.errors import LilaError

LINE_SECONDS = 60  # between two lines of progress where there is no terminal
EXIT_BAD_INPUT = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
INTERRUPTED = "interrupted; completed work is kept, and the same command resumes it"


class PlainConsole(Console):
    """Prints strings as they are, without markup: names of files may hold brackets and control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, keep="\n"), **options)


def printable(text: str, keep: str = "") -> str:
    """Escape control characters, line breaks and invalid UTF-8 except `keep`: no file name may steer a terminal."""
    unsafe = r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    return re.sub(unsafe, lambda c: c[0] if c[0] in keep else c[0].encode("unicode_escape").decode(), text)


out = PlainConsole()
err = PlainConsole(stderr=True)


def bold(text: str, color: str = "") -> Text:
    """Return a styled text to print before or among plain ones."""
    return Text(printable(text), f"bold {color}".strip())


def run(app: typer.Typer) -> None:
    """Run a command line; any error is one sentence and an exit status; `--debug` anywhere adds the traceback.

    INFO messages of our packages' loggers go to stderr. Ctrl-C and SIGTERM raise SystemExit in the command, not
    KeyboardInterrupt, for which typer has a message and an exit status of its own.
    """
    for package in ("stores", "lila_cues", "lila_train"):
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _ConsoleHandler) for handler in logger.handlers):
            logger.addHandler(_ConsoleHandler())
    for stream in (sys.stdout, sys.stderr):  # of any encoding
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:]
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in previous.items():
            if handler is not signal.SIG_IGN:  # as in a shell's background
                signal.signal(number, _interrupt)
        app([argument for argument in arguments if argument != "--debug"])
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        if isinstance(error, LilaError):
            _fail(str(error), EXIT_BAD_INPUT)
        if isinstance(error, PermissionError):
            place = f"{(error.strerror or 'permission denied').lower()}: {error.filename or 'a file'}"
            _fail(f"{place}; change its permissions, or those of a folder above it, or name another", EXIT_BAD_INPUT)
        if isinstance(error, OSError):
            _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), EXIT_INTERNAL)
        found = f"{type(error).__name__}: {error}".rstrip(": ")
        _fail(f"unexpected {found}; run the command again with --debug and report what it prints", EXIT_INTERNAL)
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


MAX_PIXELS = f"Most pixels of an image or a video's frame. Default: ${MAX_PIXELS_VARIABLE}, else 178,956,970."

RETRY = (
    "Seconds for which a request to a store's URL is repeated while network or server fail. "
    f"Default: ${RETRY_VARIABLE}, else {RETRY_SECONDS:g}."
)


def _show_version(wanted: bool | None) -> None:
    if wanted:
        out.print(f"lila-pixels {version('lila-pixels')}")
        raise typer.Exit


def common_options(
    _version: Annotated[
        bool | None, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = None,
    _debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error, for a report.")] = False,
    max_pixels: Annotated[int | None, typer.Option(min=1, help=MAX_PIXELS)] = None,
    retry_seconds: Annotated[float | None, typer.Option(min=0, help=RETRY)] = None,
) -> None:
    """Options of both command lines, before the command."""
    if max_pixels is not None:
        os.environ[MAX_PIXELS_VARIABLE] = str(max_pixels)  # for worker processes too
    if retry_seconds is not None:
        os.environ[RETRY_VARIABLE] = str(retry_seconds)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_IGN)  # a batch system may send it twice while work is published
    raise SystemExit(128 + number)


def _fail(message: str, status: int) -> NoReturn:
    err.print(bold("error:", "red"), printable(message))
    sys.exit(status)


class _ConsoleHandler(logging.Handler):
    """Prints log messages above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(printable(record.getMessage()))


def facts(title: str) -> Table:
    """Return an empty table of two columns, names and values, under a title."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def counted(counts: Mapping[str, int]) -> str:
    """Return counts as text, one of a thing in the singular: `2 sequences, 1 object`."""
    singular = {"classes": "class", "categories": "category"}
    return ", ".join(
        f"{n:,} {singular.get(name, name.removesuffix('s')) if n == 1 else name}" for name, n in counts.items()
    )


def duration(seconds: float) -> str:
    """Return a time in the unit that reads best, such as `40 s`, `12 min` or `3.5 h`."""
    for limit, length, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds / 86_400:.2g} days"


def progress(unit: str, elapsed: bool = False) -> bars.Progress:
    """Return the context of a bar with the count, the rate in `unit` per second, the time left, perhaps `elapsed`."""
    start = (bars.SpinnerColumn(), _Description(), bars.BarColumn(), bars.MofNCompleteColumn())
    times = (bars.TimeElapsedColumn(), bars.TextColumn("elapsed,")) if elapsed else ()
    return _Progress(*start, _Rate(unit), *times, bars.TimeRemainingColumn(), console=err)


class _Progress(bars.Progress):
    """Where there is no terminal, as in a batch job, it prints a line now and then; a bar without progress goes."""

    def __enter__(self) -> _Progress:
        self.next_line = time.monotonic() + LINE_SECONDS
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.live.transient |= not any(task.completed for task in self.tasks)  # an error, or nothing to do
        super().__exit__(*error)

    def advance(self, task_id: bars.TaskID, advance: float | int = 1) -> None:
        super().advance(task_id, advance)
        if not err.is_terminal and time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_SECONDS
            (task,) = (task for task in self.tasks if task.id == task_id)
            (unit,) = (column.unit for column in self.columns if isinstance(column, _Rate))
            rate = _mean_rate(task)
            total = "" if task.total is None else f" of {task.total:,.0f}"
            left = "" if task.time_remaining is None else f", about {duration(float(task.time_remaining))} left"
            err.print(f"{task.description}: {task.completed:,.0f}{total} {unit}, {rate:.3g} {unit}/s{left}")


class _Description(bars.ProgressColumn):
    def render(self, task: bars.Task) -> Text:
        return Text(printable(task.description))


class _Rate(bars.ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: bars.Task) -> Text:
        speed = None if task.finished else task.speed  # of the last 30 seconds
        speed = _mean_rate(task) if speed is None else speed  # of the first one, or of all
        return Text(f"{speed:.3g} {self.unit}/s" if speed else "", style="progress.data.speed")


def _mean_rate(task: bars.Task) -> float:
    """Return the rate without what an earlier call has completed, the field `before` of a task."""
    return (task.completed - task.fields.get("before", 0)) / max(task.elapsed or 0.0, 1e-9)
