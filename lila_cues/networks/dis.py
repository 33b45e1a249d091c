"""Dense inverse search (Kroeger et al., ECCV 2016) by OpenCV: flow on the CPU without weights."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lila_cues.networks.weights import WeightSource
from stores.errors import LilaError

NAME = "dis"
SMALLEST = 16  # px: below, no patch of the search fits


class DisFlow:
    """OpenCV's medium preset, searched down to the full resolution, which matters on grids as small as ours."""

    name = NAME

    def __init__(self) -> None:
        self.source = WeightSource(NAME, "code", "opencv", cv2.__version__, None, "apache-2.0")
        self.settings: dict[str, str | bool | int | None] = {"preset": "medium", "finest_scale": 0}

    def notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Nothing that a person should know before."""
        return ()

    def __call__(self, first: Float[Tensor, "b 3 H W"], second: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 2 H W"]:
        """Flow in px from the first to the second image, RGB in [0, 1]; channel 0 to the right, 1 downwards."""
        if min(first.shape[-2:]) < SMALLEST:
            raise LilaError(
                f"expected images of at least {SMALLEST}×{SMALLEST} px for {NAME}, "
                f"found {first.shape[-2]}×{first.shape[-1]}; choose a larger cue grid"
            )
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setFinestScale(0)
        pairs = zip(_grey(first), _grey(second), strict=True)
        flows = [search.calc(*pair, None) for pair in pairs]  # type: ignore[call-overload]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(first.device)

    def both_ways(
        self, first: Float[Tensor, "b 3 H W"], second: Float[Tensor, "b 3 H W"]
    ) -> tuple[Float[Tensor, "b 2 H W"], Float[Tensor, "b 2 H W"]]:
        """Flow to the second image and back."""
        return self(first, second), self(second, first)

    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        """Flow from image `pairs[:, 0]` to image `pairs[:, 1]`."""
        one, other = pairs.to(images.device).unbind(1)
        return self(images[one], images[other])


def _grey(images: Tensor) -> list[np.ndarray]:
    pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in pixels]
