"""A trained LILA model: loading, inference on images of any size, sharing and export. Needs no training code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lila_train.model.lila import Lila as Lila
    from lila_train.model.lila import load as load

__all__ = ["Lila", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lila_train.model import lila  # PyTorch takes seconds to import

    return getattr(lila, name)
