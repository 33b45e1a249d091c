"""The attention backend of a network: PyTorch's own, or xformers' memory-efficient one.

Every network here calls `scaled_dot_product_attention`; the second backend answers that call instead. So the choice
touches no weights and no names, and holds for any network.

How a network is run, whatever it is: in which precision, compiled or not, how many images at a time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from stores.errors import LilaError

BACKENDS = ("sdpa", "xformers")


def backend(name: str) -> Callable[[], AbstractContextManager[object]]:
    """A maker of contexts inside which attention runs on the named backend."""
    if name == "sdpa":
        return nullcontext
    if name == "xformers":
        ops = _xformers_ops()
        return lambda: _Xformers(ops)
    raise LilaError(f"expected an attention backend among {', '.join(BACKENDS)}, found {name}; pass --attention sdpa")


class _Xformers(TorchFunctionMode):
    """Answers attention calls without mask, dropout or causality; passes all others on."""

    def __init__(self, ops: ModuleType) -> None:
        super().__init__()
        self.ops = ops

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and _plain(args, kwargs):
            return self._attend(args[0], args[1], args[2], kwargs.get("scale"))
        return func(*args, **kwargs)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Heads before tokens, as PyTorch has them; xformers wants tokens before heads."""
        tokens_first = [part.transpose(1, 2) for part in (query, key, value)]
        attended: Tensor = self.ops.memory_efficient_attention(*tokens_first, scale=scale)
        return attended.transpose(1, 2)


def _plain(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return (
        len(args) == 3
        and args[0].ndim == 4
        and kwargs.get("attn_mask") is None
        and not kwargs.get("dropout_p")
        and not kwargs.get("is_causal")
        and not kwargs.get("enable_gqa")
    )


def _xformers_ops() -> ModuleType:
    try:
        return importlib.import_module("xformers.ops")
    except ImportError as error:
        raise LilaError(
            "expected xformers for --attention xformers, but it is not installed; "
            "install it with pip install 'lila-pixels[gpu]', or pass --attention sdpa"
        ) from error


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
