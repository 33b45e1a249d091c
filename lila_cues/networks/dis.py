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
        return self.between(torch.cat([first, second]), torch.arange(2 * len(first)).view(2, -1).T)

    def between(self, images: Float[Tensor, "f 3 H W"], pairs: Int[Tensor, "p 2"]) -> Float[Tensor, "p 2 H W"]:
        """Flow from image `pairs[:, 0]` to image `pairs[:, 1]`."""
        if min(images.shape[-2:]) < SMALLEST:
            raise LilaError(
                f"expected images of at least {SMALLEST}×{SMALLEST} px for {NAME}, "
                f"found {images.shape[-2]}×{images.shape[-1]}; choose a larger cue grid"
            )
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setFinestScale(0)
        grey = _grey(images)
        flows = [search.calc(grey[one], grey[other], None) for one, other in pairs.tolist()]  # type: ignore[call-overload]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(images.device)


def _grey(images: Tensor) -> list[np.ndarray]:
    pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in pixels]
