"""How a network is run, whatever it is: in which precision, compiled or not, how many images at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from stores.errors import LilaError

P = ParamSpec("P")
R = TypeVar("R")

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

CPU_BATCH = 4
"""Images or pairs per pass of stage one: more at a time leave a CPU's caches, and are no faster."""


def usual_batch(device: torch.device) -> int | None:
    """How many of a clip's images or pairs stage one takes at a time; None, on a GPU: all of them."""
    return CPU_BATCH if device.type == "cpu" else None


@dataclass(frozen=True)
class Execution:
    """Float32 and eager unless asked otherwise; outputs are float32 in any case.

    `max_batch` bounds the images (pairs, for flow) that go through a network at once; None means the
    usual batch of who calls, or else all that are given.
    """

    precision: str = "float32"
    compiled: bool = False
    max_batch: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise LilaError(
                f"expected a precision among {', '.join(PRECISIONS)}, found {self.precision}; pass one with --precision"
            )
        if self.max_batch is not None and self.max_batch < 1:
            raise LilaError(f"expected at least one image at a time, found a largest batch of {self.max_batch}")

    def to_dict(self) -> dict[str, str | bool | int | None]:
        """For a store's provenance: all of it can shape the last digits."""
        return asdict(self)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context in which a network runs; outside stays as it is where float32 is asked for."""
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)

    def prepare(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, compiled at its first call where that is asked for."""
        return torch.compile(function) if self.compiled else function

    def batches(self, *images: Tensor, usual: int | None = None) -> Iterator[tuple[Tensor, ...]]:
        """The tensors cut along their first axis into pieces of at most `max_batch`, or `usual` where that is None."""
        size = self.max_batch or usual or max(1, len(images[0]))
        return zip(*(tensor.split(size) for tensor in images), strict=True)
