"""Who else is building in a store at this moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from stores.store import CueStore

LOOKED_AT = 1000
"""Pending tasks that are looked at: each costs a look at a claim file."""


def holders(store: CueStore, only_failed: bool = False) -> Counter[str]:
    """`host:pid` of every builder that holds a pending task, and how many it holds."""
    pending = islice(store.pending_tasks(only_failed), LOOKED_AT)
    return Counter(holder for task in pending if (holder := store.claimed_by(task)))


def notes(store: CueStore, only_failed: bool = False) -> Iterator[str]:
    """What a second builder says before it begins, and at its end of what it left to the first."""
    for holder, tasks in holders(store, only_failed).items():
        yield (
            f"{holder} is building {tasks} task{'s' * (tasks != 1)} of this store; they are left to it, and the others "
            "are shared with it: run the same command again to be sure of all, or see lila-cues status"
        )
