"""Images as RGB: files, PIL images of any mode, arrays and tensors."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lila_cues.inputs import check_pixels, max_pixels, read_bytes
from stores.errors import LilaError

AnyImage = Image.Image | np.ndarray | Tensor
Rgb = UInt8[np.ndarray, "h w 3"]

_MAX_16_BIT = 65535
_ORIENTATION = 0x0112  # EXIF: from 5 on the picture is shown on its side


def read_image(path: Path, *, background: str | None = "white") -> Rgb:
    """Read an image file of any mode as RGB, turned by its EXIF tag; LilaError as `decode`.

    Transparent pixels are laid over `background`; None drops the alpha channel, as stage one reads data sets.
    """
    return to_rgb(ImageOps.exif_transpose(decode(path)), background)


def read_stored(path: Path) -> Rgb:
    """Read an image as its file stores it, which its masks and published scores refer to: not turned, without alpha."""
    return to_rgb(decode(path), None)


def read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Read a mask as it is stored: palette indices or gray values, never the palette's colors."""
    image = decode(path)
    if image.mode not in ("P", "L", "1"):
        raise LilaError(
            f"expected a mask with a palette or in grayscale, found mode {image.mode} in {path}; "
            "save object ids as an indexed PNG"
        )
    return np.asarray(image if image.mode != "1" else image.convert("L"), dtype=np.uint8)


def read_depth(path: Path) -> UInt16[np.ndarray, "h w"]:
    """Read a depth map in millimeters, 0 where it is unknown."""
    image = decode(path)
    if image.mode != "I;16":
        raise LilaError(
            f"{path}: expected a 16-bit gray PNG in millimeters, found mode {image.mode}; write the map again"
        )
    return np.asarray(image)


def decode(path: Path) -> Image.Image:
    """Read an image file as it is stored; LilaError if that fails or it has more pixels than `max_pixels`."""
    content = read_bytes(path, "an image")
    try:
        if Image.MAX_IMAGE_PIXELS and max_pixels() > 2 * Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = max_pixels()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            Image.init()
            # EPS, under any name, would be run as a program by Ghostscript
            image = Image.open(BytesIO(content), formats=[name for name in Image.ID if name != "EPS"])
        check_pixels(path, image.width * image.height)
        image.load()
        return image
    except LilaError:
        raise
    except Image.DecompressionBombError as error:
        found = f"one beyond Pillow's limit ({error})"
        check_pixels(path, max(map(int, re.findall(r"\d+", str(error)))))
    except UnidentifiedImageError:
        found = "a file in no known image format"
    except Exception as error:  # foreign bytes can raise anything
        found = f"one that cannot be decoded ({getattr(error, 'strerror', None) or error})"
    raise LilaError(f"{path}: expected an image, found {found}; copy it again or take it away")


def to_rgb(image: Image.Image, background: str | None = "white") -> Rgb:
    """Convert an image of any mode to 8 bits: 16 bits and floats are scaled, CMYK and palettes converted.

    Transparent pixels are laid over `background`; for None the alpha channel is dropped.
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        largest = _MAX_16_BIT if image.mode.startswith("I;16") else values.max(initial=0)
        white = next((top for top in (1, 255) if largest <= top), _MAX_16_BIT)  # mode I may hold 8 or 16 bits
        gray = np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if background is not None and image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, background), layer)
    return np.asarray(image.convert("RGB"))


def short_side_size(native: tuple[int, int], short: int) -> tuple[int, int]:
    """Return height and width with a short side of `short` px, the aspect ratio of `native` kept."""
    height, width = (max(1, round(side * (short / min(native)))) for side in native)
    return height, width


def resize_short_side(image: Rgb, size: int) -> UInt8[np.ndarray, "H W 3"]:
    """Resize to a short side of `size` px, as `resize`."""
    return resize(image, short_side_size((image.shape[0], image.shape[1]), size))


def resize(image: Rgb, target: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Resize to a height and width, bilinear and antialiased; LilaError for more than `max_pixels`."""
    height, width = image.shape[:2]
    if target == (height, width):
        return image
    if target[0] * target[1] > max(max_pixels(), height * width):
        raise LilaError(f"an image of {height}×{width} px would have {target[0]}×{target[1]} px; pass a smaller --size")
    return np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.BILINEAR))


def image_size(path: Path) -> tuple[int, int] | None:
    """Return height and width of an image, of which only the head is read; None where that fails."""
    with suppress(Exception), Image.open(path) as image:  # foreign bytes can raise anything
        width, height = image.size
        return (width, height) if image.getexif().get(_ORIENTATION, 1) >= 5 else (height, width)
    return None


def to_tensor(image: AnyImage) -> Shaped[Tensor, "1 3 H W"]:
    """Return one image as a batch for the model: uint8, or floats in [0, 1].

    Takes PIL images of any mode; arrays H×W, H×W×1, H×W×3 or H×W×4 of uint8, uint16 or floats in [0, 1]; tensors 3×H×W
    or 1×3×H×W of uint8 or floats. Raises LilaError for another shape or type.
    """
    if isinstance(image, Tensor):
        batch = image[None] if image.ndim == 3 else image
        if batch.ndim != 4 or batch.shape[0] != 1 or batch.shape[1] != 3 or not batch.numel():
            raise LilaError(f"expected one image as a tensor 3×H×W, found {_shape(image)}; pass them one by one")
        return batch
    if not isinstance(image, Image.Image | np.ndarray):
        raise LilaError(f"expected a PIL image, an array H×W×3 or a tensor 3×H×W, found a {type(image).__name__}")
    array = to_rgb(ImageOps.exif_transpose(image)) if isinstance(image, Image.Image) else _array_to_rgb(image)
    return torch.from_numpy(np.array(array)).movedim(-1, 0)[None]


def to_float(images: Tensor) -> Float[Tensor, "b 3 H W"]:
    """Return a batch of RGB, uint8 or floats in [0, 1], as floats in [0, 1]; LilaError for another shape or type."""
    if not isinstance(images, Tensor):
        raise LilaError(
            f"expected a tensor b×3×H×W, found a {type(images).__name__}; `model.features` takes pictures and arrays"
        )
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise LilaError(f"expected RGB images of shape b×3×H×W, found {_shape(images)}")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise LilaError(f"expected uint8 or floating-point images, found {images.dtype}")
    return images


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise LilaError(f"expected an image as an array H×W×3, found {_shape(array)}; channels come last")
    if array.dtype == np.uint16:
        array = (array / _MAX_16_BIT).astype(np.float32)
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise LilaError(f"expected uint8, uint16 or floats in [0, 1], found an array of {array.dtype}")
    if array.shape[2] == 4:  # over white
        white = 255 if array.dtype == np.uint8 else 1
        color, alpha = array[..., :3], array[..., 3:] / white
        mixed = color * alpha + white * (1 - alpha)
        return (np.rint(mixed) if white == 255 else mixed).astype(array.dtype)
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def _shape(array: np.ndarray | Tensor) -> str:
    return "×".join(map(str, array.shape)) or "a single number"
