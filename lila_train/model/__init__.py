"""A trained LILA model: loading, inference on images of any size, sharing and export. Needs no training code."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lila_train.model.lila import Lila as Lila
    from lila_train.model.lila import load as load

_PUBLIC = dict.fromkeys(("Lila", "load"), "lila_train.model.lila")
"""Public name → its module, imported when the name is first used: PyTorch takes seconds to import."""

__all__ = ["Lila", "load"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
