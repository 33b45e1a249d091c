"""What both command lines share: where messages go, how work in progress looks, how a run ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from stores.errors import LilaError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

EXIT_BAD_INPUT = 2
EXIT_SYSTEM = 1
EXIT_INTERRUPTED = 130
INTERRUPTED = (
    "interrupted; what was finished is kept, and the same command goes on from there (lila-train run: with --resume)"
)


class _Rate(ProgressColumn):
    """How many units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g} {self.unit}/s", style="progress.data.speed")


@contextmanager
def progress(unit: str) -> Iterator[Progress]:
    """A bar with the count, the rate in `unit` per second and the time left."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=False) as bar:
        yield bar


def run(app: typer.Typer) -> None:
    """Run a command line; the user's or the machine's errors are one sentence and an exit status, not a traceback.

    Typer turns Ctrl-C into its exit status and says nothing.
    """
    try:
        app()
    except LilaError as error:
        _end(str(error), EXIT_BAD_INPUT)
    except OSError as error:
        _end(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), EXIT_SYSTEM)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as ended:
        if ended.code == EXIT_INTERRUPTED:
            _interrupted()
        raise


def _interrupted() -> NoReturn:
    err.print(INTERRUPTED)
    sys.exit(EXIT_INTERRUPTED)


def _end(message: str, status: int) -> NoReturn:
    err.print(f"[bold red]error:[/] {_plain(message)}")
    sys.exit(status)


def _plain(message: str) -> str:
    return message.replace("[", r"\[")
