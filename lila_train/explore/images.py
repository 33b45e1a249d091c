"""Images with their features, at the size that a page has room for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from lila_train.explore.page import Explored
from lila_train.inference.images import read_image, resized
from lila_train.inference.model import Lila

_LONGEST = 4  # times the size asked for: the longest side of a feature map


@torch.inference_mode()
def explored(model: Lila, path: Path, name: str, size: int) -> Explored:
    """The features of an image brought to `size` pixels on its short side, and a picture at most twice as large.

    A smaller image stays as it is; a panorama becomes smaller than asked, so that its long side stays in bounds.
    """
    picture = read_image(path)
    short, long = sorted(picture.shape[:2])
    size = max(1, min(size, short, _LONGEST * size * short // long))
    small = resized(picture, size)
    image = torch.tensor(small).permute(2, 0, 1)[None].to(model.device)
    shown = resized(picture, 2 * size) if min(picture.shape[:2]) > 2 * size else picture
    return Explored(
        name=name,
        picture=shown,
        lila=model(image)[0].float().cpu().numpy(),
        encoder=model.encode(image)[0].float().cpu().numpy(),
    )


def short_names(paths: Sequence[Path]) -> list[str]:
    """What tells files apart: their paths without the folders that all of them share."""
    if len(paths) == 1:
        return [paths[0].name]
    whole = [path.resolve() for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in whole]))
    return [str(path.relative_to(shared)) for path in whole]
