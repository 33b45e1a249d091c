"""What a cue store is: its format, and how it is written, read, checked and looked into. No torch, no network."""

from stores.cues import ClipCues, PairCues
from stores.errors import LilaError, StoreError
from stores.ledger import ABSENT, COMPLETE, FAILED
from stores.opening import create, open, open_or_create
from stores.spec import Geometry, StoreSpec
from stores.store import CueStore

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
