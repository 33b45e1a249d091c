"""Features at single points of an image whose maps are kept, and the check that features are finite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike
from torch import Tensor

from lila_train.model.decoder import Decoder
from lila_train.model.resize import Size
from stores.errors import LilaError


@dataclass(frozen=True)
class PreparedImage:
    """An image's maps, from which features are looked up at points; made by `Lila.prepare`."""

    decoder: Decoder
    coarse: Float[Tensor, "1 d _ _"]  # at eight times the encoder's grid
    decoded_size: Size  # (y, x) of the image that was decoded, with its padding
    size: Size  # (y, x) of the image
    grid: Float[Tensor, "1 e h w"]  # the encoder's last tokens

    @torch.no_grad()
    def at(self, points: ArrayLike | Tensor) -> Float[Tensor, "n d"]:
        """Return the features at n points (x, y) in pixels; as `Lila.at`."""
        places = torch.as_tensor(points, dtype=torch.float32).to(self.coarse.device)
        if places.ndim != 2 or places.shape[1] != 2:
            raise LilaError(f"expected points n×2, as (x, y), found shape {tuple(places.shape)}")
        height, width = self.size
        last = places.new_tensor([width - 1, height - 1])
        outside = ~((places >= 0) & (places <= last)).all(1)  # NaN too
        if outside.any():
            raise LilaError(
                f"expected points (x, y) up to ({width - 1}, {height - 1}) in an image of {width}×{height} px, found "
                f"{tuple(places[outside][0].tolist())}"
            )
        return require_finite(self.decoder.at(self.coarse, self.decoded_size, places[None])[0], "the model")


def require_finite(features: Shaped[Tensor, " *shape"], source: str) -> Shaped[Tensor, " *shape"]:
    """Return the features of `source`; LilaError if one is NaN or infinite. The look at them waits for the device."""
    if not torch.stack(features.aminmax()).isfinite().all():
        raise LilaError(
            f"expected finite features from {source}, found NaN or infinity; its weights are damaged or their training "
            "diverged: pass others, or compute in float32"
        )
    return features
