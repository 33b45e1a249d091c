"""The errors that a person can do something about.

Every message says what was expected, what was found, where, and what to do; the console prints it as one sentence.
Anything else that is raised is a mistake of ours and keeps its traceback.
"""

from __future__ import annotations


class LilaError(Exception):
    """What was given to us cannot be used; `str(error)` is one sentence with the remedy."""


class StoreError(LilaError):
    """A cue store cannot be opened, read or written as asked."""
