"""A page that shows what the features of some images know: similarity at a click, segments from a few labels.

`explored` computes an image's features, `build_page` packs those of several images into one HTML file; importing this
package imports neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lila_train.explore.images import explored, short_names
    from lila_train.explore.page import Explored, build_page

_HOMES = {
    "build_page": "page",
    "Explored": "page",
    "explored": "images",
    "short_names": "images",
}

__all__ = [
    "Explored",
    "build_page",
    "explored",
    "short_names",
]


def __getattr__(name: str) -> object:
    """Import a name's module when it is first asked for: PyTorch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
