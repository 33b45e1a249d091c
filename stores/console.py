"""What both command lines share: where messages go, how work in progress looks, how a run ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from stores.errors import LilaError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

EXIT_BAD_INPUT = 2
EXIT_SYSTEM = 1
EXIT_INTERRUPTED = 130


@contextmanager
def progress(unit: str) -> Iterator[Progress]:
    """A bar with the count, the rate in `unit` per second and the time left; give the rate as the field `rate`."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[rate]:.1f}} {unit}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=False) as bar:
        yield bar


def run(app: typer.Typer) -> None:
    """Run a command line; an error of the user's or the machine's is one sentence and an exit status, not a traceback."""
    try:
        app()
    except LilaError as error:
        _end(str(error), EXIT_BAD_INPUT)
    except OSError as error:
        _end(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), EXIT_SYSTEM)
    except KeyboardInterrupt:
        _end("interrupted; what was finished is kept, run the same command again to go on", EXIT_INTERRUPTED)


def _end(message: str, status: int) -> None:
    err.print(f"[bold red]error:[/] {_plain(message)}")
    sys.exit(status)


def _plain(message: str) -> str:
    return message.replace("[", r"\[")
