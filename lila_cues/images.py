"""Frames and masks of data sets, as their files hold them.

Images of any kind as RGB: PIL's modes, arrays and tensors, from files as from memory.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lila_cues.viz.pictures import Picture
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


AnyImage = Image.Image | np.ndarray | Tensor

LARGEST = 2**27  # pixels that an image may be enlarged to
_FULL_16 = 65535


def read_image(path: Path) -> Picture:
    """An image file as RGB, turned upright by its EXIF tag."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a panorama is no bomb
            with Image.open(path) as image:
                return rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise LilaError(f"{path} has more than {limit:.0f} million pixels; cut or shrink it first") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise LilaError(f"{path} cannot be read as an image ({error}); is the file whole?") from error


def rgb(image: Image.Image) -> Picture:
    """RGB of an image of any mode: alpha laid over white, 16 bits and floats scaled, CMYK and palettes converted."""
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(np.asarray(image, dtype=np.float64), known_16=image.mode.startswith("I;16"))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def resized(picture: Picture, size: int | None) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with its short side at `size` pixels, aspect kept, antialiased; as it is for None.

    Raises LilaError where that would enlarge it beyond 2²⁷ pixels.
    """
    if size is None:
        return picture
    height, width = picture.shape[:2]
    scale = size / min(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if target[0] * target[1] > max(LARGEST, height * width):
        raise LilaError(
            f"an image of {height}×{width} px would have {target[1]}×{target[0]} px with a short side of {size}; pass "
            "a smaller --size"
        )
    return np.asarray(Image.fromarray(picture).resize(target, Image.Resampling.BILINEAR))


def as_batch(image: AnyImage) -> Shaped[Tensor, "1 3 H W"]:
    """One image as the model takes it: uint8, or floats in [0, 1].

    PIL images of any mode; arrays H×W, H×W×1, H×W×3 or H×W×4 of uint8, uint16 or floats in [0, 1]; tensors 3×H×W or
    1×3×H×W of uint8 or floats.
    """
    if isinstance(image, Tensor):
        batch = image[None] if image.ndim == 3 else image
        if batch.ndim != 4 or batch.shape[0] != 1 or batch.shape[1] != 3 or not batch.numel():
            raise LilaError(f"expected one image as a tensor 3×H×W, found {_shape(image)}; pass them one by one")
        return batch
    array = rgb(ImageOps.exif_transpose(image)) if isinstance(image, Image.Image) else _rgb_array(image)
    return torch.from_numpy(np.array(array)).movedim(-1, 0)[None]


def as_float(images: Tensor) -> Float[Tensor, "b 3 H W"]:
    """A batch of RGB as floats in [0, 1], of uint8 or of such floats; LilaError for what is no batch of images."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise LilaError(f"expected RGB images of shape b×3×H×W, found {_shape(images)}")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise LilaError(f"expected uint8 or floating-point images, found {images.dtype}")
    return images


def _rgb_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise LilaError(f"expected an image as an array H×W×3, found {_shape(array)}; channels come last")
    if array.dtype == np.uint16:
        array = (array / _FULL_16).astype(np.float32)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise LilaError(f"expected uint8, uint16 or floats in [0, 1], found an array of {array.dtype}")
    if array.shape[2] == 4:
        array = _over_white(array)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def _over_white(array: np.ndarray) -> np.ndarray:
    top = 255 if array.dtype == np.uint8 else 1
    color, alpha = array[..., :3], array[..., 3:] / top
    mixed = color * alpha + top * (1 - alpha)
    return np.rint(mixed).astype(np.uint8) if top == 255 else mixed.astype(array.dtype)


def _grey(values: np.ndarray, known_16: bool) -> Picture:
    """Grey of more than 8 bits; where PIL does not know how many, the values' own range tells."""
    largest = values.max(initial=0)
    top = _FULL_16 if known_16 or largest > 255 else 255 if largest > 1 else 1
    gray = np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def _shape(array: np.ndarray | Tensor) -> str:
    return "×".join(map(str, array.shape)) or "a single number"
