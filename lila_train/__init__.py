"""Stage two: from a store of cues to pixel features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stores import lazy_names

if TYPE_CHECKING:
    from lila_train.model.lila import Lila as Lila
    from lila_train.model.lila import load as load

__getattr__, __dir__, __all__ = lazy_names(__name__, {"model.lila": ("Lila", "load")})
