"""Reading a store from a URL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stores.errors import StoreError
from stores.files import Blob, Files, Range

_ = (Any, np, Sequence, Range, StoreError)


class RemoteFiles(Files):
    """A URL."""

    def __init__(self, url: str) -> None:
        self.location = url

    def read(self, key: str) -> bytes:
        """A whole file."""
        raise NotImplementedError

    def open(self, key: str, tail: int) -> tuple[Blob, bytes]:
        """A file and its last bytes."""
        raise NotImplementedError

    def names(self, folder: str) -> list[str] | None:
        """Names in a folder."""
        raise NotImplementedError
