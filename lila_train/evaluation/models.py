"""Models under test behind one interface: images to the encoder's grid and, where there is one, a pixel map.

A *head* names the scored feature map: `encoder` is the grid alone, any other name the model's own pixel map.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from lila_cues.networks.encoder import FrozenEncoder
from lila_train.model.lila import Lila
from lila_train.model.prepared import require_finite
from lila_train.model.resize import size_of
from stores.errors import LilaError, first_line

ENCODER = "encoder"
CACHED = 2**30  # bytes of an encoder's grids; on a GPU a sixteenth

FeatureMap = Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b c h w"]]


@runtime_checkable
class GridModel(Protocol):
    """A model with a grid of tokens. Images are RGB in [0, 1], their sides multiples of `patch_size` (pixels)."""

    @property
    def patch_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def encoder_grid(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        """Return a feature vector per patch."""

    def encoder_taps(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Return the grids of four tapped blocks, the last of which is `encoder_grid`."""

    def describe(self) -> dict[str, Any]:
        """Return the provenance for the result: names, sizes, sources of weights."""


@runtime_checkable
class PixelModel(GridModel, Protocol):
    """A model with a feature vector per pixel too, scored under the name of `head`."""

    @property
    def head(self) -> str: ...

    def pixel_map(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]: ...


def feature_map(model: GridModel, head: str) -> FeatureMap:
    """Return the function from images to the scored map: the grid for `encoder`, else the pixel map.

    It raises LilaError where the map is not finite.
    """
    if head == ENCODER:
        return lambda images: require_finite(model.encoder_grid(images), head)
    assert isinstance(model, PixelModel), f"{head} is no head of {model.describe()}"
    return lambda images: require_finite(model.pixel_map(images), head)


def from_transformers(kind: str, place: str, expected: str, hint: str, **options: Any) -> Any:
    """Load a class of `transformers` from the hub or a folder in its form; LilaError (with `hint`) where it fails."""
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        raise LilaError(
            f"expected {expected} at {place}, but it cannot be loaded ({first_line(error)}); go online once, or "
            f"pass {hint}"
        ) from error


class GridCache:
    """Grids of the latest images of a frozen encoder, up to `CACHED` bytes.

    Probes read a grid and a pixel map made of it, and runs are scored on the same frames again and again. On a CPU
    images are recognized by their content, on a GPU by the identity of the tensor.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[object, tuple[Tensor | None, tuple[Tensor, ...]]] = OrderedDict()
        self._lock = threading.Lock()  # parts of a task are scored by threads

    def grids(self, encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Return the grids of the four tapped blocks."""
        on_cpu = images.device.type == "cpu"
        key = (hashlib.blake2b(images.contiguous().numpy().data).digest(), images.shape) if on_cpu else id(images)
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][1]
        grids = encoder(images)
        with self._lock:
            self._entries[key] = None if on_cpu else images, grids
            size = sum(grid.nbytes for _, grids in self._entries.values() for grid in grids)
            while size > (CACHED if on_cpu else CACHED // 16) and len(self._entries) > 1:
                size -= sum(grid.nbytes for grid in self._entries.popitem(last=False)[1][1])
        return grids


_caches: WeakKeyDictionary[FrozenEncoder, GridCache] = WeakKeyDictionary()


def taps_of(encoder: FrozenEncoder, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
    """Return the grids of the encoder's four tapped blocks; those of the latest images are not computed again."""
    return _caches.setdefault(encoder, GridCache()).grids(encoder, images)


@dataclass(frozen=True)
class EncoderAlone:
    """A frozen encoder without anything on top: the baseline of every table."""

    encoder: FrozenEncoder
    device: torch.device

    @property
    def patch_size(self) -> int:
        return self.encoder.patch_size

    def encoder_grid(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b e h w"]:
        return self.encoder_taps(images)[-1]

    def encoder_taps(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b e h w"], ...]:
        """Return the four blocks that LILA's decoder reads, each after the final LayerNorm."""
        return taps_of(self.encoder, images)

    def describe(self) -> dict[str, Any]:
        source = self.encoder.source.to_dict()
        return {"encoder": self.encoder.name, "patch_size": self.patch_size, "encoder_weights": source}


@dataclass(frozen=True)
class LilaModel(EncoderAlone):
    """A trained LILA model: its encoder's grid, and the pixel map decoded from it."""

    lila: Lila
    about: Mapping[str, Any] = field(default_factory=dict)  # for the result: where the weights are, training steps
    head: str = "lila"

    def pixel_map(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b d H W"]:
        """Return features of zero mean and unit variance over channels."""
        return self.lila.decoder(self.encoder_taps(images), size_of(images))

    def describe(self) -> dict[str, Any]:
        count = sum(p.numel() for p in self.lila.decoder.parameters())
        return super().describe() | {"decoder_parameters": count, **self.about}
