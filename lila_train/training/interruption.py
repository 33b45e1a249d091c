"""A polite end: SIGTERM or Ctrl-C asks a run to stop after the step it is in; a second Ctrl-C does not wait."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], signal.Signals | None]]:
    """Gives a function that says which signal has come, if any; the handlers of before are put back at the end."""
    came: signal.Signals | None = None

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came is signal.SIGINT and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        came = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_ctrl_c(_worker: int) -> None:
    """For loader processes: the terminal sends Ctrl-C to all, but only the run decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
