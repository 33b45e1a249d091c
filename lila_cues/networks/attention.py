"""The attention backend of a network: PyTorch's own, or xformers' memory-efficient one.

Every network here calls `scaled_dot_product_attention`; the second backend answers that call instead. So the choice
touches no weights and no names, and holds for any network.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

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
