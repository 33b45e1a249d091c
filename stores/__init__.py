"""The cue store: its format, and how it is written, read, verified and repaired."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores.cues import ClipCues, PairCues
    from stores.errors import LilaError, StoreError
    from stores.ledger import ABSENT, COMPLETE, FAILED
    from stores.opening import create, open_or_create
    from stores.spec import Geometry, StoreSpec
    from stores.store import CueStore, open

__all__ = [
    "ABSENT",
    "COMPLETE",
    "FAILED",
    "ClipCues",
    "CueStore",
    "Geometry",
    "LilaError",
    "PairCues",
    "StoreError",
    "StoreSpec",
    "create",
    "open",
    "open_or_create",
]

_PUBLIC = {
    "cues": ("ClipCues", "PairCues"),
    "errors": ("LilaError", "StoreError"),
    "ledger": ("ABSENT", "COMPLETE", "FAILED"),
    "opening": ("create", "open_or_create"),
    "spec": ("Geometry", "StoreSpec"),
    "store": ("CueStore", "open"),
}
"""Module → public names, imported when they are first used: `stores.errors` must not import Zarr."""


def __getattr__(name: str) -> Any:
    for module, names in _PUBLIC.items():
        if name in names:
            return getattr(importlib.import_module(f"stores.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
