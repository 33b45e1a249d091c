"""The cue store: its format, and how it is written, read, verified and repaired."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
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
    from stores.opening import open_or_create as open_or_create
    from stores.spec import Geometry as Geometry
    from stores.spec import StoreSpec as StoreSpec
    from stores.store import CueStore as CueStore
    from stores.store import open as open


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package; `modules` names the public names of its modules.

    They are imported when they are first used, since PyTorch and Zarr take seconds to import.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *module_of}), sorted(module_of)


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
