"""Errors that the user can do something about.

Every message states what was expected, what was found, where, and what to do; the console prints it as one sentence.
Any other exception is a bug: one sentence too, exit status 70, and the traceback with `--debug`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LilaError(Exception):
    """Invalid input or configuration; `str(error)` is one sentence with the remedy."""


class StoreError(LilaError):
    """A cue store cannot be opened, read or written as requested."""


class UnreadableError(StoreError):
    """The file system or the network refuses to read a file; its content may be intact."""


def os_reason(error: BaseException) -> str:
    """Return why the system refused, in lower case, for the middle of a sentence; of another error its text."""
    return str(getattr(error, "strerror", None) or error).lower()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, for the middle of a sentence."""
    return str(error).strip().split("\n", maxsplit=1)[0]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean …?` with the known names that a name is part of, or else resembles; empty without."""
    names = list(known)
    meant = [each for each in names if name and name in each] or get_close_matches(name, names, 1)
    return f", did you mean {' or '.join(meant)}?" if meant else ""
