"""Stage two: from a store of cues to pixel features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lila_train.inference.loading import load
    from lila_train.inference.model import Lila

__all__ = ["Lila", "load"]


def __getattr__(name: str) -> Any:
    """PyTorch is imported when it is first needed, so that the command line's help comes at once."""
    if name == "load":
        from lila_train.inference.loading import load

        return load
    if name == "Lila":
        from lila_train.inference.model import Lila

        return Lila
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
