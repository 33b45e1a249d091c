"""A trained LILA model: loading, inference on images of any size, sharing and export. Needs no training code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stores import lazy_names

if TYPE_CHECKING:
    from lila_train.model.lila import Lila as Lila
    from lila_train.model.lila import load as load

__getattr__, __dir__, __all__ = lazy_names(__name__, {"lila": ("Lila", "load")})
