"""The cue store: its format, and how it is written, read, checked and repaired. No torch, no terminal, no pictures."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores.cues import ClipCues as ClipCues
    from stores.cues import PairCues as PairCues
    from stores.errors import LilaError as LilaError
    from stores.errors import StoreError as StoreError
    from stores.ledger import ABSENT as ABSENT
    from stores.ledger import COMPLETE as COMPLETE
    from stores.ledger import FAILED as FAILED
    from stores.opening import create as create
    from stores.opening import open as open
    from stores.opening import open_or_create as open_or_create
    from stores.spec import Geometry as Geometry
    from stores.spec import StoreSpec as StoreSpec
    from stores.store import CueStore as CueStore

_PUBLIC = {
    "ABSENT": "stores.ledger",
    "COMPLETE": "stores.ledger",
    "FAILED": "stores.ledger",
    "ClipCues": "stores.cues",
    "PairCues": "stores.cues",
    "CueStore": "stores.store",
    "LilaError": "stores.errors",
    "StoreError": "stores.errors",
    "Geometry": "stores.spec",
    "StoreSpec": "stores.spec",
    "create": "stores.opening",
    "open": "stores.opening",
    "open_or_create": "stores.opening",
}
"""Public name → its module, imported when the name is first used: the errors must not need Zarr."""

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


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
