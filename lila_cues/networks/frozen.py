"""Frozen networks: their base classes, and how one is run: precision, compilation, batch size, attention backend.

A new depth or flow network is one file with a subclass, a row in the registry, and a line in `load_depth` or
`load_flow`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lila_cues.networks.weights import WeightSource
from stores.errors import LilaError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU_BATCH = 4  # images or pairs per pass of stage one: more leave a CPU's caches, and are no faster

P = ParamSpec("P")
R = TypeVar("R")
Settings = dict[str, str | bool | int | None]


class FrozenNetwork(nn.Module):
    """A network in eval mode for good, without gradients: a subclass ends `__init__` by `requires_grad_` and `eval`."""

    def __init__(self, source: WeightSource, execution: Execution | None = None) -> None:
        super().__init__()
        self.source = source  # for a store's provenance
        self.name = source.network  # by which it is loaded again
        self.execution = execution or Execution()

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Stay in eval mode; `mode` is ignored."""
        return super().train(False)

    @property
    def settings(self) -> Settings:
        """Settings that affect the results besides the weights; for a store's provenance."""
        return asdict(self.execution)

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return warnings to show before images of this size (y, x) are processed."""
        return ()


class DepthNetwork(FrozenNetwork):
    """Depth of single images."""

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b H W"]:
        """Return relative inverse depth q ≥ 0 of RGB in [0, 1], at the images' size."""
        raise NotImplementedError


class FlowNetwork(FrozenNetwork):
    """Optical flow between images."""

    def forward(self, first: Float[Tensor, "b 3 H W"], second: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 2 H W"]:
        """Return flow in px from the first to the second image, RGB in [0, 1]; channel 0 to the right, 1 downwards."""
        return self.between(torch.cat([first, second]), torch.arange(2 * len(first)).view(2, -1).T)

    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        """Return flow from image `pairs[:, 0]` to image `pairs[:, 1]`; features of an image are computed once."""
        raise NotImplementedError


@dataclass(frozen=True)
class Execution:
    """Precision, compilation and attention backend of a network; outputs are float32 in any case."""

    precision: str = "float32"  # or "bfloat16" or "float16", by autocast
    compiled: bool = False  # by `torch.compile`
    attention: str = "sdpa"  # backend, or "xformers"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise LilaError(
                f"expected a precision among {', '.join(PRECISIONS)}, found {self.precision}; pass one with --precision"
            )
        if self.attention not in ("sdpa", "xformers"):
            raise LilaError(
                f"expected an attention backend among sdpa, xformers, found {self.attention}; pass --attention sdpa"
            )
        self.attend()

    def attend(self) -> AbstractContextManager[object]:
        """Return the context in which attention runs on the backend; LilaError where that is not installed."""
        return nullcontext() if self.attention == "sdpa" else _Xformers()

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which a network runs; for float32 the surrounding one stays."""
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)

    def prepare(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function, compiled at its first call where `compiled` is set."""
        return torch.compile(function) if self.compiled else function


def default_batch(device: torch.device) -> int | None:
    """Return how many of a clip's images or pairs stage one takes at a time; None, on a GPU: all of them."""
    return CPU_BATCH if device.type == "cpu" else None


class _Xformers(TorchFunctionMode):
    """Runs attention without mask, dropout or causality on xformers; all other calls stay with PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        try:
            self.ops = importlib.import_module("xformers.ops")
        except ImportError as error:
            raise LilaError(
                "expected xformers for --attention xformers, but it is not installed; "
                "install it with pip install 'lila-pixels[gpu]', or pass --attention sdpa"
            ) from error

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        supported = (
            func is F.scaled_dot_product_attention
            and len(args) == 3
            and args[0].ndim == 4
            and kwargs.get("attn_mask") is None
            and not (kwargs.get("dropout_p") or kwargs.get("is_causal") or kwargs.get("enable_gqa"))
        )
        if not supported:
            return func(*args, **kwargs)
        # PyTorch has heads before tokens, xformers tokens before heads
        query, key, value = (part.transpose(1, 2) for part in args)
        attended: Tensor = self.ops.memory_efficient_attention(query, key, value, scale=kwargs.get("scale"))
        return attended.transpose(1, 2)
