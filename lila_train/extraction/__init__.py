"""Pixel features of files: read, computed and written at once, kept as a cache that goes on where it was left.

An `Extractor` takes images and videos through a `Network` (the model with its `Settings`) into the folder of a `Cache`;
importing this package imports none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lila_train.extraction.bases import basis_fingerprint, shared_basis
    from lila_train.extraction.files import Extractor
    from lila_train.extraction.network import Network
    from lila_train.extraction.settings import Cache, Settings

_HOMES = {
    "basis_fingerprint": "bases",
    "Cache": "settings",
    "Extractor": "files",
    "Network": "network",
    "Settings": "settings",
    "shared_basis": "bases",
}

__all__ = [
    "Cache",
    "Extractor",
    "Network",
    "Settings",
    "basis_fingerprint",
    "shared_basis",
]


def __getattr__(name: str) -> object:
    """Import a name's module when it is first asked for: PyTorch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
