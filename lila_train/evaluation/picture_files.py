"""Frames and masks of data sets, as their files hold them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stores.errors import LilaError


def read_frame(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """One RGB frame, as it is stored: not turned by an EXIF tag. LilaError where it cannot be decoded."""
    return np.asarray(_decoded(path).convert("RGB"))


def read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    """One mask as it is stored: palette indices, or grey values; never colours looked up."""
    picture = _decoded(path)
    if picture.mode not in ("P", "L", "1"):
        raise LilaError(
            f"expected a mask with a palette or in grey, found mode {picture.mode} in {path}; "
            "save object ids as an indexed PNG"
        )
    return np.asarray(picture if picture.mode != "1" else picture.convert("L"), dtype=np.uint8)


def _decoded(path: Path) -> Image.Image:
    content = path.read_bytes()
    try:
        picture = Image.open(BytesIO(content))
        picture.load()
    except (OSError, SyntaxError) as error:
        raise LilaError(f"expected a picture at {path}, found a file that cannot be decoded ({error})") from error
    return picture
