"""The cue store: its format, and how it is written, read, verified and repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stores.public import lazy_names

if TYPE_CHECKING:
    from stores.cues import ClipCues as ClipCues
    from stores.cues import PairCues as PairCues
    from stores.errors import LilaError as LilaError
    from stores.errors import StoreError as StoreError
    from stores.ledger import ABSENT as ABSENT
    from stores.ledger import COMPLETE as COMPLETE
    from stores.ledger import FAILED as FAILED
    from stores.opening import create as create
    from stores.opening import open_or_create as open_or_create
    from stores.spec import Geometry as Geometry
    from stores.spec import StoreSpec as StoreSpec
    from stores.store import CueStore as CueStore
    from stores.store import open as open

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "cues": ("ClipCues", "PairCues"),
        "errors": ("LilaError", "StoreError"),
        "ledger": ("ABSENT", "COMPLETE", "FAILED"),
        "opening": ("create", "open_or_create"),
        "spec": ("Geometry", "StoreSpec"),
        "store": ("CueStore", "open"),
    },
)
